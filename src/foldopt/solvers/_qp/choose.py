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


# From `python benchmarks/qp_engines.py` (milliseconds on one core, machine busy; ratios matter):
#
#                              DAQP   PIQP  Clarabel  OSQP   SCS   HiGHS
#   dense, strong       n  20   1.1    1.8      7.0    7.0   8.1     8.9
#                         100   2.8    3.7       41     24    13      97
#                         300    63     19      916    179   221    time limit
#   dense, semidefinite    20   1.2    1.5      6.3    8.2   9.2      10
#                         100    11    3.4       51     39    26     102
#   dense, linear          20   0.9    1.3       12    229    12      12
#                         100    13     12       48   5025    46     100
#   sparse, strong       1000  2237     27       39     76    71    failed
#                        5000     –    218      530    863  1246       –
#   sparse, semidefinite 5000     –     76      323      –     –       –
#   sparse, linear       1000     –     16       21      –     –      11
#                        5000     –     89      302      –     –     107
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
