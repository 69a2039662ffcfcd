"""Convex programs with quadratic constraints, as second-order cones."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from foldopt.solvers._conic.quadratic_cones import solve_quadratic
from foldopt.solvers._conic.quadratic_program import QuadraticProgram
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._program_shapes import Block, in_dims, need, need_both, size_of
from foldopt.solvers._run.arrays import to_array
from foldopt.solvers._run.samples import solve_samples
from foldopt.solvers._settings import Settings
from foldopt.solvers.conic import ENGINES as _CONIC
from foldopt.solvers.conic import ConicLimits, check_engine, limits_of
from foldopt.status import Solution, Status

__all__ = ["ENGINES", "QCQP"]

ENGINES: dict[str, dict[str, Any]] = {
    name: {**engine, "classes": "convex QCQP"} for name, engine in _CONIC.items()
}


@dataclasses.dataclass(frozen=True)
class QCQP(Settings):
    r"""Solve convex programs with quadratic constraints, by way of second-order cones.

    .. math:: \min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad
        \tfrac12 x^\top Q_i x + p_i^\top x \le r_i,\; G x \le h,\; A x = b,\; l \le x \le u,

    with Q and all :math:`Q_i` positive semidefinite. Each quadratic constraint is brought to size
    one before it becomes a cone: a risk of 1e-6 is then as good as one of 1.

    Parameters
    ----------
    engine
        ``"clarabel"`` or ``"scs"``, see :class:`~foldopt.solvers.Conic`.
    rtol, atol
        Of the optimality conditions; None: 1e-9.
    max_iterations, time_limit, threads, executor
        As in :class:`~foldopt.solvers.Conic`.
    warm_start
        Of no use to these cones: a start is ignored.

    Raises
    ------
    ValueError
        If the engine is not known, or a number is out of its range.

    References
    ----------
    M. S. Lobo, L. Vandenberghe, S. Boyd, H. Lebret, Linear Algebra Appl. 284 (1998), 193–228
    (quadratic constraints as cones).

    Examples
    --------
    The highest return with a risk xᵀVx of at most γ, all money spent:

    >>> import torch
    >>> from foldopt import solvers
    >>> V = torch.diag(torch.tensor([4e-6, 1e-6, 2e-6], dtype=torch.float64))
    >>> c = torch.tensor([[0.03, 0.01, 0.02]], dtype=torch.float64)
    >>> risk = dict(Qs=2 * V[None], rs=torch.tensor([1e-6], dtype=torch.float64))
    >>> budget = dict(A=torch.ones(1, 3).double(), b=torch.ones(1).double(), lower=0.0)
    >>> solvers.QCQP()(None, -c, **risk, **budget).x
    tensor([[0.3855, 0.1832, 0.4313]], dtype=torch.float64)
    """

    engine: Literal["clarabel", "scs"] = dataclasses.field(default="clarabel", kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine("solvers.QCQP", self.engine)

    def __call__(
        self,
        Q: Any,
        p: Any,
        Qs: Any,
        ps: Any = None,
        rs: Any = None,
        G: Any = None,
        h: Any = None,
        A: Any = None,
        b: Any = None,
        lower: Any = None,
        upper: Any = None,
    ) -> Solution:
        """Solve a batch.

        Parameters
        ----------
        Q
            ``(n, n)`` or ``(B, n, n)``, positive semidefinite; None: a linear objective. Of this
            and all other matrices the symmetric part counts.
        p
            ``(n,)`` or ``(B, n)``.
        Qs, ps, rs
            The quadratic constraints: ``(q, n, n)``, ``(q, n)`` and ``(q,)``, each also with a
            batch dimension in front; ps of None: zero.
        G, h, A, b
            As in :class:`~foldopt.solvers.GlobalQP`; None: none.
        lower, upper
            Numbers, ``(n,)`` or ``(B, n)``, ±inf where there is no bound; None: none at all.

        Returns
        -------
        Solution
            x ``(B, n)``, or ``(n,)`` if nothing has a row for each sample; the status; and
            :class:`~foldopt.solvers.Multipliers`, whose ``inequality`` has the q quadratic
            constraints first and then the rows of G, ``(B, q + m)``.

        Raises
        ------
        ImportError
            If the engine's package is missing.
        TypeError, ValueError
            If shapes or kinds do not fit, numbers are not finite that must be, or Q or one of Qs
            is not positive semidefinite.
        """
        owner = "solvers.QCQP"
        need(owner, p=p, Qs=Qs, rs=rs)
        need_both(owner, G=G, h=h)
        need_both(owner, A=A, b=b)
        n, q = size_of(owner, "p", p), size_of(owner, "rs", rs)
        m, k = (0 if v is None else size_of(owner, name, v) for name, v in (("h", h), ("b", b)))
        blocks = [
            Block("Q", Q, (n, n)),
            Block("p", p, (n,)),
            Block("Qs", Qs, (q, n, n)),
            Block("ps", ps, (q, n)),
            Block("rs", rs, (q,)),
            Block("G", G, (m, n)),
            Block("h", h, (m,)),
            Block("A", A, (k, n)),
            Block("b", b, (k,)),
            Block("lower", lower, (n,), scalar=True),
            Block("upper", upper, (n,), scalar=True),
        ]
        dims = in_dims(owner, blocks)
        _check_convex(owner, "Q", Q)
        _check_convex(owner, "Qs", Qs)
        return solve_samples(
            functools.partial(_one, engine=self.engine, limits=limits_of(self)),
            [block.value for block in blocks],
            names=[block.name for block in blocks],
            in_dims=dims,
            settings=self,
            releases_gil=ENGINES[self.engine]["releases_gil"],
            blank=functools.partial(_blank, n, q + m, k),
            infinite=("h", "lower", "upper"),
        )


def _check_convex(owner: str, name: str, matrices: Any) -> None:
    """Raise for a matrix with an eigenvalue that is below 0 by more than rounding."""
    if matrices is None:
        return
    M = matrices.toarray() if hasattr(matrices, "toarray") else to_array(matrices, None)
    if not np.isfinite(M).all():
        return  # reported as that
    rounding = 10 * M.shape[-1] * np.finfo(M.dtype).eps
    M = M.astype(np.float64)
    values = np.linalg.eigvalsh((M + np.swapaxes(M, -1, -2)) / 2)
    bad = values[..., 0] < -rounding * np.abs(values).max(-1)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        least = values[where][0] if where else values[0]
        raise ValueError(
            f"{owner}: {name}{list(where) or ''} is not positive semidefinite (least eigenvalue "
            f"{least:.2e}): the program is not convex. Minimise, and write constraints as ≤; for "
            "nonconvex programs there are solvers.Ipopt (local) and solvers.GlobalQP (global, with "
            "linear constraints)"
        )


def _blank(n: int, m: int, k: int) -> Solution:
    lost = Multipliers(*(np.full(size, np.nan) for size in (m, k, n)))
    return Solution(np.full(n, np.nan), Status.FAILED, lost, None, "")


def _one(
    Q: Any,
    p: np.ndarray,
    Qs: np.ndarray,
    ps: np.ndarray | None,
    rs: np.ndarray,
    G: Any,
    h: np.ndarray | None,
    A: Any,
    b: np.ndarray | None,
    lower: np.ndarray | None,
    upper: np.ndarray | None,
    *,
    engine: str,
    limits: ConicLimits,
    start: Solution | None = None,
) -> Solution:
    n, q = len(p), len(rs)
    Q, G, A = (M.toarray() if hasattr(M, "toarray") else M for M in (Q, G, A))
    G, h = (np.zeros((0, n)), np.zeros(0)) if G is None or h is None else (G, h)
    A, b = (np.zeros((0, n)), np.zeros(0)) if A is None or b is None else (A, b)
    low = np.full(n, -np.inf) if lower is None else np.broadcast_to(lower, (n,))
    high = np.full(n, np.inf) if upper is None else np.broadcast_to(upper, (n,))
    blank = _blank(n, q + len(h), len(b))
    crossed = (low > high).any() or (low == np.inf).any() or (high == -np.inf).any()
    if crossed or (h == -np.inf).any():
        return blank._replace(
            status=Status.INFEASIBLE, messages="lower is above upper" if crossed else "h holds -inf"
        )
    kept = ~np.isposinf(h)
    program = QuadraticProgram(
        np.zeros((n, n)) if Q is None else (Q + Q.T) / 2,
        p,
        (Qs + np.swapaxes(Qs, -1, -2)) / 2,
        np.zeros((q, n)) if ps is None else ps,
        rs,
        G[kept],
        h[kept],
        A,
        b,
        low,
        high,
    )
    status, x, held, said = solve_quadratic(program, engine, limits)
    if x is None or held is None:
        return blank._replace(status=status, messages=said)
    inequality = np.zeros(q + len(kept))
    inequality[np.concatenate([np.ones(q, dtype=bool), kept])] = held.inequality
    return Solution(x, status, held._replace(inequality=inequality), None, said)
