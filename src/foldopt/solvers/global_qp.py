"""Quadratic programs that need not be convex, to global optimality."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from foldopt.solvers._global.found import Found, Limits, NonconvexQP
from foldopt.solvers._global.gurobi import LICENCE, restored_interrupts, solve_gurobi
from foldopt.solvers._global.polish import polished
from foldopt.solvers._global.scip import solve_scip
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._program_shapes import Block, in_dims, need, need_both, size_of
from foldopt.solvers._run.samples import solve_samples
from foldopt.solvers._settings import Settings
from foldopt.status import FoldError, Solution, Status

__all__ = ["ENGINES", "GlobalQP"]

ENGINES: dict[str, dict[str, Any]] = {
    "scip": {
        "package": "pyscipopt",
        "pip": "pyscipopt",
        "releases_gil": False,
        "licence": "SCIP Apache-2.0, pyscipopt MIT",
        "classes": "nonconvex QP (global)",
    },
    "gurobi": {
        "package": "gurobipy",
        "pip": "gurobipy",
        "releases_gil": True,
        "licence": LICENCE,
        "classes": "nonconvex QP (global)",
    },
}

_ENGINES: dict[str, Callable[[NonconvexQP, Limits, np.ndarray | None], Found]] = {
    "scip": solve_scip,
    "gurobi": solve_gurobi,
}

# What the engine itself is asked for. SCIP's constraints then hold to about 1e-8 (measured: hardly
# better for smaller numbers, at which its LP solver complains); the rest is done by polishing.
_FEASIBILITY = 1e-7
_ABSOLUTE = 1e-9

# An objective that falls below this, in units of its largest coefficient, has no lower bound:
# engines take about 1e20 for infinity, and may call what they find there optimal.
_HUGE = 1e15


@dataclasses.dataclass(frozen=True)
class GlobalQP(Settings):
    r"""Solve quadratic programs that need not be convex, to global optimality.

    .. math:: \min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad
        G x \le h,\; A x = b,\; l \le x \le u,

    for any symmetric Q: concave and bilinear programs too, the latter with both vectors in x and
    the blocks that couple them beside the diagonal of Q. Spatial branch and bound: the time may
    grow exponentially with n. Bounds on all variables, as tight as you know them, help most.

    An engine is content with constraints that hold to about 1e-8, and with any x whose objective is
    in the gap. So its x is polished: the constraints near it and their multipliers, by nonnegative
    least squares, then a Newton step of the optimality conditions on them, taken if the result is
    as feasible and not higher. Both conditions and constraints hold to rounding then.

    Parameters
    ----------
    engine
        ``"scip"`` (package ``pyscipopt``) or ``"gurobi"`` (``gurobipy``; the licence that comes
        with pip is for 200 variables here).
    gap
        A sample is solved when its objective is proved to lie so close to the least one, relative
        to itself.
    rtol
        To which the engine keeps constraints, before polishing; None: 1e-7.
    atol
        A distance from the least objective that counts as none, in units of the largest
        coefficient of the objective; needed where the objective is zero. None: 1e-9.
    max_iterations
        Nodes of the search tree.
    time_limit, threads
        Seconds for one sample, and threads of the engine's own. SCIP's search uses one.
    executor, warm_start
        See :func:`~foldopt.solvers.solve_batch`; SCIP runs in processes, Gurobi in threads. A
        previous x helps only where it is still feasible: as the first incumbent.

    Raises
    ------
    ValueError
        If the engine is not known, or a number is out of its range.

    Notes
    -----
    Where variables have no bounds, the search may not end: set a time limit. SCIP's LP solver has
    been seen to write lines on tolerances to the standard error, which nothing can stop.

    References
    ----------
    arXiv 2301.12047, Section 8 (bilinear programs as decisions).

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> Q = torch.tensor([[0.0, -2.0], [-2.0, 0.0]], dtype=torch.float64)  # min −2 x₀x₁ + …
    >>> p = torch.tensor([[1.0, 0.5], [3.0, 0.5]], dtype=torch.float64)
    >>> solution = solvers.GlobalQP()(Q, p, lower=0.0, upper=1.0)
    >>> solution.x
    tensor([[1., 1.],
            [0., 0.]], dtype=torch.float64)
    >>> solution.multipliers.bounds
    tensor([[ 1.0000,  1.5000],
            [-3.0000, -0.5000]], dtype=torch.float64)
    """

    engine: Literal["scip", "gurobi"] = dataclasses.field(default="scip", kw_only=False)
    gap: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine not in ENGINES:
            raise ValueError(
                f"solvers.GlobalQP: engine must be one of {list(ENGINES)}, got {self.engine!r}"
            )
        number = isinstance(self.gap, (int, float)) and not isinstance(self.gap, bool)
        if not number or not 0 <= self.gap < math.inf:
            raise ValueError(f"solvers.GlobalQP: gap must be a number of 0 or more, got {self.gap}")

    def __call__(
        self,
        Q: Any,
        p: Any,
        G: Any = None,
        h: Any = None,
        A: Any = None,
        b: Any = None,
        lower: Any = None,
        upper: Any = None,
    ) -> Solution:
        r"""Solve a batch.

        Parameters
        ----------
        Q
            ``(n, n)`` or ``(B, n, n)``; of a matrix that is not symmetric the symmetric part
            counts.
        p
            ``(n,)`` or ``(B, n)``.
        G, h
            ``(m, n)`` or ``(B, m, n)``, and ``(m,)`` or ``(B, m)``, +inf in h for a row that does
            not count; None: no inequalities. Matrices may be scipy's sparse ones, shared by all
            samples; they are made dense.
        A, b
            ``(k, n)`` or ``(B, k, n)``, and ``(k,)`` or ``(B, k)``; None: no equalities.
        lower, upper
            Numbers, ``(n,)`` or ``(B, n)``, ±inf where there is no bound; None: none at all.

        Returns
        -------
        Solution
            x ``(B, n)``, or ``(n,)`` if nothing has a row for each sample; the status;
            :class:`~foldopt.solvers.Multipliers`; and the proved gap, (f(x) − bound) / \|f(x)\|.
            With TIME_LIMIT and MAX_ITERATIONS, x is the best one found, NaN if there is none, and
            the multipliers are those that come closest to the optimality conditions.

        Raises
        ------
        FoldError
            If a program is larger than Gurobi's licence allows.
        ImportError
            If the engine's package is missing.
        TypeError, ValueError
            If shapes or kinds do not fit, or numbers are not finite that must be.
        """
        owner = "solvers.GlobalQP"
        need(owner, Q=Q, p=p)
        n = size_of(owner, "p", p)
        m, k = (0 if v is None else size_of(owner, name, v) for name, v in (("h", h), ("b", b)))
        need_both(owner, G=G, h=h)
        need_both(owner, A=A, b=b)
        blocks = [
            Block("Q", Q, (n, n)),
            Block("p", p, (n,)),
            Block("G", G, (m, n)),
            Block("h", h, (m,)),
            Block("A", A, (k, n)),
            Block("b", b, (k,)),
            Block("lower", lower, (n,), scalar=True),
            Block("upper", upper, (n,), scalar=True),
        ]
        limits = Limits(
            self.gap,
            _ABSOLUTE if self.atol is None else self.atol,
            _FEASIBILITY if self.rtol is None else self.rtol,
            self.max_iterations,
            self.time_limit,
            self.threads,
        )
        with restored_interrupts():
            solution = solve_samples(
                functools.partial(_one, engine=self.engine, limits=limits),
                [block.value for block in blocks],
                names=[block.name for block in blocks],
                in_dims=in_dims(owner, blocks),
                settings=self,
                releases_gil=ENGINES[self.engine]["releases_gil"],
                blank=functools.partial(_blank, n, m, k),
                infinite=("h", "lower", "upper"),
            )
        for message in solution.messages:
            if message.startswith("SizeLimitError: "):
                seen = message.removeprefix("SizeLimitError: ")
                raise FoldError(
                    f"{owner}: Gurobi's licence is too small for a program of {seen}. The one that "
                    "comes with pip is for 200 variables where the objective is nonconvex, and for "
                    "2000 variables and constraints otherwise. Use engine='scip', which has no "
                    "limit, or install a full (academic or commercial) licence",
                    solution.status,
                )
        return solution


def _blank(n: int, m: int, k: int) -> Solution:
    lost = Multipliers(*(np.full(size, np.nan) for size in (m, k, n)))
    return Solution(np.full(n, np.nan), Status.FAILED, lost, float("nan"), "")


def _one(*arrays: Any, engine: str, limits: Limits, start: Solution | None = None) -> Solution:
    qp, kept = _program(*arrays)
    n, k = len(qp.p), len(qp.b)
    blank = _blank(n, len(kept), k)
    low, high = qp.lower, qp.upper
    if (low > high).any() or (low == np.inf).any() or (high == -np.inf).any():
        return blank._replace(status=Status.INFEASIBLE, messages="lower is above upper")
    if (qp.h == -np.inf).any():
        return blank._replace(status=Status.INFEASIBLE, messages="h holds -inf")
    # What engines call small, feasible or huge is absolute. So x is seen in other units if all
    # numbers that limit it are below one, or all above, and the objective in units of its largest
    # coefficient. Both are powers of two: that rounds nothing.
    sides = _sizes(low, high, qp.h, qp.b)
    unit = _power_of_two(min(max(1.0, sides.min(initial=np.inf)), sides.max(initial=0.0) or 1.0))
    size = _power_of_two(_sizes(unit**2 * qp.Q, unit * qp.p).max(initial=0.0))
    scaled = NonconvexQP(
        qp.Q * (unit**2 / size), qp.p * (unit / size), qp.G, qp.h / unit, qp.A, qp.b / unit,
        low / unit, high / unit,
    )  # fmt: skip
    found = _ENGINES[engine](scaled, limits, None if start is None else start.x / unit)
    if found.x is None:
        return blank._replace(status=found.status, messages=found.message)
    if scaled.value(found.x) < -_HUGE:
        return blank._replace(status=Status.UNBOUNDED, messages=f"{engine}: at its infinity")
    x, held = polished(scaled, found.x)
    lam, nu, mu = (part * (size / unit) for part in held)
    inequality = np.zeros(len(kept))
    inequality[kept] = lam
    value = scaled.value(x)
    away = value - found.bound
    gap = 0.0 if away <= limits.absolute else away / abs(value) if value else np.inf
    status, message = found.status, found.message
    # Polishing may have moved x; the engine's word also depends on its own tolerances.
    if status == Status.CONVERGED and not away <= limits.absolute + 1.01 * limits.gap * abs(value):
        status, message = Status.INACCURATE, f"{engine}: proved no more than a gap of {gap:.1e}"
    return Solution(unit * x, status, Multipliers(inequality, nu, mu), gap, message)


def _sizes(*arrays: np.ndarray) -> np.ndarray:
    """How large the numbers are that are neither infinite nor zero."""
    sizes = np.abs(np.concatenate([array.ravel() for array in arrays]))
    return sizes[np.isfinite(sizes) & (sizes > 0)]


def _power_of_two(size: float) -> float:
    """One of about that size; 1 for 0."""
    return 2.0 ** round(math.log2(size)) if size else 1.0


def _program(
    Q: Any, p: Any, G: Any, h: Any, A: Any, b: Any, lower: Any, upper: Any
) -> tuple[NonconvexQP, np.ndarray]:
    """Every block, dense; and which rows of G count."""
    n = len(p)
    Q, G, A = (M.toarray() if hasattr(M, "toarray") else M for M in (Q, G, A))
    G, h = (np.zeros((0, n)), np.zeros(0)) if G is None else (G, h)
    A, b = (np.zeros((0, n)), np.zeros(0)) if A is None else (A, b)
    low = np.full(n, -np.inf) if lower is None else np.broadcast_to(lower, (n,))
    high = np.full(n, np.inf) if upper is None else np.broadcast_to(upper, (n,))
    kept = ~np.isposinf(h)
    return NonconvexQP((Q + Q.T) / 2, p, G[kept], h[kept], A, b, low, high), kept
