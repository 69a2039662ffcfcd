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


# From benchmarks/qp_engines.py, milliseconds on one quiet core (two runs: dense, sparse).
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
#   sparse, strong        100   2.3    2.1      5.6    5.6   5.9  failed
#                        1000   771     24       33     38    52       –
#                        5000     –     81      150    154   240       –
#   sparse, semidefinite  100   3.3    2.6      3.9     12   6.4  failed
#                        1000   782    9.8       24     36    49       –
#                        5000     –     61      126   1040   339       –
#   sparse, linear        100   2.2    1.6      3.4    410   6.0     2.5
#                        1000  1212     14       19   1717    59      10
#                        5000     –     64      127      –  2499      52
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
