"""Conic programs: linear, second-order, semidefinite, exponential."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._conic.clarabel import solve_clarabel
from foldopt.solvers._conic.cones import Cones
from foldopt.solvers._conic.program import (
    ConicAnswer,
    ConicLimits,
    ConicPoint,
    ConicProgram,
    checked,
)
from foldopt.solvers._conic.scs import solve_scs
from foldopt.solvers._program_shapes import Block, in_dims, need, size_of
from foldopt.solvers._run.samples import solve_samples
from foldopt.solvers._settings import Settings
from foldopt.status import Solution, Status

__all__ = ["ENGINES", "Conic", "ConicMultipliers"]

ENGINES: dict[str, dict[str, Any]] = {
    "clarabel": {
        "package": "clarabel",
        "pip": "clarabel",
        "releases_gil": True,
        "licence": "Apache-2.0",
        "classes": "LP, QP, SOCP, SDP, exponential",
    },
    "scs": {
        "package": "scs",
        "pip": "scs",
        "releases_gil": True,
        "licence": "MIT",
        "classes": "LP, QP, SOCP, SDP, exponential",
    },
}

_ENGINES: dict[str, Callable[[ConicProgram, ConicLimits, ConicPoint | None], ConicAnswer]] = {
    "clarabel": solve_clarabel,
    "scs": solve_scs,
}

_TOLERANCE = 1e-9


class ConicMultipliers(NamedTuple):
    r"""The dual and the slack of a conic program.

    With them :math:`P x + q + A^\top z = 0`, :math:`A x + s = b` and :math:`s^\top z = 0`.

    Attributes
    ----------
    dual
        z in the dual cone K*, ``(*batch, m)``.
    slack
        s in the cone K, ``(*batch, m)``.
    """

    dual: Any
    slack: Any


@dataclasses.dataclass(frozen=True)
class Conic(Settings):
    r"""Solve conic programs, with a quadratic objective if need be.

    .. math:: \min_x \tfrac12 x^\top P x + q^\top x \quad\text{s.t.}\quad A x + s = b,\; s \in K,

    with P positive semidefinite and K a product of cones. That is the form of SCS and of Clarabel,
    and the multipliers are theirs: z ∈ K* with Px + q + Aᵀz = 0. Of what the engine returns, the
    optimality conditions are checked again, and the status is ours.

    Parameters
    ----------
    cones
        A :class:`~foldopt.solvers.Cones`: which cone each row is in.
    engine
        ``"clarabel"``, interior points: accurate, the default; or ``"scs"``, operator splitting:
        for large programs, and it can start from a previous solution.
    rtol, atol
        Of the optimality conditions; None: 1e-9. SCS may need more iterations for that than it
        gets, and then says so: give it 1e-6.
    max_iterations
        None: 200 (Clarabel), 100,000 (SCS).
    time_limit, threads
        Seconds for one sample; threads of the engine, where it has any.
    executor, warm_start
        See :func:`~foldopt.solvers.solve_batch`; both engines run in threads. Only SCS uses a
        start.

    Raises
    ------
    TypeError, ValueError
        If the engine is not known, or an argument is not of its kind.

    References
    ----------
    B. O'Donoghue, E. Chu, N. Parikh, S. Boyd, J. Optim. Theory Appl. 169 (2016), 1042–1068; P. J.
    Goulart, Y. Chen, arXiv 2405.12762 (Clarabel).

    Examples
    --------
    The point of the unit disc that is lowest in the direction q: ‖x‖ ≤ 1 as (1, x) ∈ K.

    >>> import torch
    >>> from foldopt import solvers
    >>> q = torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
    >>> A = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    >>> b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    >>> lowest = solvers.Conic(solvers.Cones(second_order=(3,)))
    >>> lowest(None, q, A, b).x.round(decimals=6) + 0.0
    tensor([[-0.6000, -0.8000],
            [ 0.0000,  1.0000]], dtype=torch.float64)
    """

    cones: Cones = dataclasses.field(kw_only=False)
    engine: Literal["clarabel", "scs"] = dataclasses.field(default="clarabel", kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.cones, Cones):
            raise TypeError(f"solvers.Conic: cones must be a Cones(...), got {self.cones!r}")
        check_engine("solvers.Conic", self.engine)

    def __call__(self, P: Any, q: Any, A: Any, b: Any) -> Solution:
        """Solve a batch.

        Parameters
        ----------
        P
            Positive semidefinite, ``(n, n)`` or ``(B, n, n)``, or a sparse matrix of scipy's that
            all samples share; the symmetric part counts. None: a linear objective.
        q
            ``(n,)`` or ``(B, n)``.
        A
            ``(m, n)`` or ``(B, m, n)``, or a sparse matrix that all samples share; its rows in the
            order of the cones.
        b
            ``(m,)`` or ``(B, m)``.

        Returns
        -------
        Solution
            x ``(B, n)``, or ``(n,)`` if nothing has a row for each sample; the status;
            :class:`ConicMultipliers`. With INFEASIBLE and UNBOUNDED, of which the engine has a
            certificate, all numbers are NaN.

        Raises
        ------
        ImportError
            If the engine's package is missing.
        TypeError, ValueError
            If shapes or kinds do not fit, or numbers are not finite.
        """
        owner = "solvers.Conic"
        need(owner, q=q, A=A, b=b)
        n, m = size_of(owner, "q", q), size_of(owner, "b", b)
        if m != self.cones.rows:
            raise ValueError(
                f"{owner}: b has {m} rows, and the cones have {self.cones.rows}: {self.cones}"
            )
        blocks = [
            Block("P", P, (n, n)),
            Block("q", q, (n,)),
            Block("A", A, (m, n)),
            Block("b", b, (m,)),
        ]
        return solve_samples(
            functools.partial(_one, cones=self.cones, engine=self.engine, limits=limits_of(self)),
            [block.value for block in blocks],
            names=[block.name for block in blocks],
            in_dims=in_dims(owner, blocks),
            settings=self,
            releases_gil=ENGINES[self.engine]["releases_gil"],
            blank=functools.partial(_blank, n, m),
        )


def check_engine(owner: str, engine: Any) -> None:
    """Raise unless there is such an engine."""
    if engine not in ENGINES:
        raise ValueError(f"{owner}: engine must be one of {list(ENGINES)}, got {engine!r}")


def limits_of(settings: Settings) -> ConicLimits:
    """The settings, with our tight defaults."""
    rtol, atol = (
        _TOLERANCE if value is None else float(value) for value in (settings.rtol, settings.atol)
    )
    return ConicLimits(rtol, atol, settings.max_iterations, settings.time_limit, settings.threads)


def solve_conic(
    program: ConicProgram, engine: str, limits: ConicLimits, start: ConicPoint | None = None
) -> ConicAnswer:
    """The engine's answer to one program, with a status that we checked."""
    return checked(program, _ENGINES[engine](program, limits, start), limits)


def _blank(n: int, m: int) -> Solution:
    lost = ConicMultipliers(np.full(m, np.nan), np.full(m, np.nan))
    return Solution(np.full(n, np.nan), Status.FAILED, lost, None, "")


def _one(
    P: Any,
    q: np.ndarray,
    A: Any,
    b: np.ndarray,
    *,
    cones: Cones,
    engine: str,
    limits: ConicLimits,
    start: Solution | None = None,
) -> Solution:
    n = len(q)
    P = _scipy.sparse.csc_matrix((n, n)) if P is None else _scipy.sparse.csc_matrix((P + P.T) / 2)
    program = ConicProgram(P, q, _scipy.sparse.csc_matrix(A), b, cones)
    point = None
    if start is not None:
        point = ConicPoint(start.x, start.multipliers.dual, start.multipliers.slack)
    status, point, said = solve_conic(program, engine, limits, point)
    if point is None:
        return _blank(n, len(b))._replace(status=status, messages=said)
    message = "" if status == Status.CONVERGED else said
    return Solution(point.x, status, ConicMultipliers(point.z, point.s), None, message)
