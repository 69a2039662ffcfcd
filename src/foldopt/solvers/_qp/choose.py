"""Which engine for which program, where the user leaves the choice to us."""

from __future__ import annotations

import dataclasses
from typing import Literal

from foldopt.solvers._qp.program import Limits
from foldopt.solvers._qp.table import ENGINES

__all__ = ["Traits", "choose"]

Convexity = Literal["linear", "semidefinite", "strong"]


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the choice depends on.

    Attributes
    ----------
    n, rows
        Variables; rows of G and A together.
    density
        The share of the entries of Q, G and A that are not zero; 1 where they are dense.
    convexity
        Of the objective.
    """

    n: int
    rows: int
    density: float
    convexity: Convexity


def choose(traits: Traits, limits: Limits) -> tuple[str, ...]:
    """The engines to try, best first: those installed that have every setting that is set."""
    order = _order(traits)
    have = [name for name in order if ENGINES[name].installed]
    if not have:
        packages = " or ".join(f"pip install {ENGINES[name].pip}" for name in order)
        raise ImportError(f"solvers.QP: engine 'auto' needs one of its engines: {packages}")
    able = [name for name in have if not ENGINES[name].lacks(limits)]
    if not able:
        lacks = "; ".join(f"{name} no {', '.join(ENGINES[name].lacks(limits))}" for name in have)
        raise ValueError(
            f"solvers.QP: no engine that is installed has every setting that is set: {lacks}. "
            "Install clarabel, which has them all, or leave a setting at its default"
        )
    return tuple(able)


# From benchmarks/qp_engines.py, milliseconds on one quiet core; the rows marked * are from an
# earlier run on a busy one, with some engines left out: there only ratios count.
#
#                              DAQP   PIQP  Clarabel  OSQP   SCS   HiGHS
#   dense, strong       n  20   0.8    0.8      2.2    2.6   2.9     4.2
#                         100   2.1    3.3       23     11    11      46
#                         300    29     28      421    104   113  time limit
#   dense, semidefinite    20   1.1    2.2      3.4    4.0   2.8     3.5
#                         100   3.6    2.2       19     15    18      32
#                         300    73     29      456    257   164  time limit
#   dense, linear          20   0.6    0.6      1.9    161   2.4     1.8
#                         100   3.5    1.7       13   3268    13      24
#                         300   128     19      142      –     –     607
#   sparse, strong        100   3.4    3.3       11    7.9   7.0  failed
#                        1000  1014     27       33     41    54       –
#                        5000     –     83      151    163   240       –
#   sparse, semidefinite  100   3.0    2.4      4.3     11   8.8  failed
#                       *5000     –     76      323      –     –       –
#   sparse, linear      *1000     –     16       21      –     –      11
#                       *5000     –     89      302      –     –     107
#
# DAQP's answers are exact to rounding as well, so that it is preferred where it is about as fast.
# So are those of HiGHS, which moreover lets other threads run, on sparse linear programs. It is
# never asked for a quadratic objective: its QP method fails or does not end on random programs of
# 100 to 300 variables. ADMM is slow on linear programs.
_SMALL = {"linear": 50, "semidefinite": 50, "strong": 150}
_THIN = 0.3


def _order(traits: Traits) -> tuple[str, ...]:
    if traits.n <= _SMALL[traits.convexity]:
        first: tuple[str, ...] = ("daqp", "piqp", "clarabel")
    elif traits.convexity == "linear" and traits.density < _THIN:
        first = ("highs", "piqp", "clarabel")
    else:
        first = ("piqp", "clarabel")
    # Behind them the slower ones, in case that none of these is there, or all fail.
    rest = ("highs", "proxqp", "scs", "moreau")
    if traits.convexity != "linear":
        rest = ("proxqp", "daqp", "osqp", "scs", "moreau")
    return (*first, *(name for name in rest if name not in first))
