"""Convex quadratic and linear programs, by the engine that suits them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._qp.arguments import (
    INFINITE,
    NAMES,
    Blocks,
    blocks_of,
    convexity_of,
    traits_of,
)
from foldopt.solvers._qp.batch import solve_together
from foldopt.solvers._qp.choose import choose
from foldopt.solvers._qp.one import solve_one
from foldopt.solvers._qp.others import engine_called
from foldopt.solvers._qp.program import Limits
from foldopt.solvers._run.arrays import check_numbers
from foldopt.solvers._run.samples import solve_samples
from foldopt.solvers._settings import Settings
from foldopt.status import Solution

__all__ = ["QP"]


@dataclasses.dataclass(frozen=True)
class QP(Settings):
    r"""Solve convex quadratic programs, and linear ones, by one of eight engines.

    .. math:: \min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad
        G x \le h,\; A x = b,\; l \le x \le u.

    Whatever an engine says, its answer is CONVERGED only if the optimality conditions hold, as we
    compute them ourselves: stationarity, feasibility, the signs of the multipliers and the duality
    gap, each relative to the size of its terms, to ten times the larger of ``rtol`` and ``atol``,
    or to 1e-7 where neither is set. An answer that is not yet as good as the tolerances (1e-9 by
    default) is first improved by one solve of the KKT system of the constraints that look active.
    INFEASIBLE and UNBOUNDED are confirmed by two linear programs in HiGHS, where that is installed.

    Parameters
    ----------
    engine
        ``"piqp"`` and ``"clarabel"`` (interior point), ``"daqp"`` and ``"highs"`` (active set,
        simplex), ``"proxqp"``, ``"osqp"`` and ``"scs"`` (augmented Lagrangian, ADMM), ``"moreau"``
        (interior point, a whole batch in one call). ``"auto"``: the fastest one for programs of
        this size, density and convexity that is installed; one that fails is followed by the next
        best, which ``messages`` then says. HiGHS is for linear programs: its method for quadratic
        ones often fails beyond some hundred variables. Any other engine that ``qpsolvers`` knows
        and that is installed serves too (``"quadprog"``, say), with its own settings.
    rtol, atol
        Relative and absolute tolerance, handed to the engine; None: 1e-9 (OSQP: 1e-8). DAQP and
        HiGHS know only ``atol``, of feasibility.
    max_iterations
        Of one sample; None: the engine's own limit, 100 000 for OSQP and SCS.
    time_limit
        Seconds for one sample; None: no limit. PIQP and ProxQP have none.
    threads
        Threads for one sample: Clarabel and HiGHS only.
    executor
        Who solves the samples of a batch; see :func:`~foldopt.solvers.solve_batch`. With
        ``"auto"``, Moreau solves the batch itself.
    warm_start
        A :class:`~foldopt.solvers.WarmStart`; OSQP, SCS, ProxQP, DAQP and Moreau use it.

    Raises
    ------
    ValueError
        If there is no such engine, or it has no such setting as is set.

    Notes
    -----
    Multipliers of dependent constraints are not unique: engines find different ones.

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> p = torch.tensor([[-1.0, -3.0], [1.0, 0.5]])
    >>> solution = solvers.QP()(torch.eye(2), p, upper=torch.tensor([2.0, 2.0]))
    >>> solution.x
    tensor([[ 1.0000,  2.0000],
            [-1.0000, -0.5000]])
    >>> solution.multipliers.bounds[0]
    tensor([0., 1.])
    """

    engine: str = dataclasses.field(default="auto", kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine != "auto":
            engine_called(self.engine).check_settings(self._limits)

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
        """Solve a program, or a batch of them.

        Each block is the same for all samples, or has a batch dimension in front. If none has,
        the answer has none either. Blocks are tensors or numpy arrays, of any floating dtype: the
        engines compute in float64. Q, G and A may be sparse, in scipy or torch, shared by all.

        Parameters
        ----------
        Q
            Positive semidefinite, ``(n, n)`` or ``(B, n, n)``; the symmetric part counts. None: a
            linear program.
        p
            ``(n,)`` or ``(B, n)``.
        G, h
            ``(m, n)`` or ``(B, m, n)``, and ``(m,)`` or ``(B, m)``, which may hold +inf; None: no
            inequalities.
        A, b
            ``(k, n)`` or ``(B, k, n)``, and ``(k,)`` or ``(B, k)``; None: no equalities.
        lower, upper
            ``(n,)`` or ``(B, n)``, which may hold −inf and +inf, or one number; None: no bounds. A
            variable is fixed where they are equal.

        Returns
        -------
        Solution
            x ``(*batch, n)``, NaN where there is none; the status of each sample; its
            :class:`~foldopt.solvers.Multipliers`; the relative duality gap; and what the engines
            said, ``""`` where all is well.

        Raises
        ------
        ImportError
            If the engine's package is missing.
        TypeError, ValueError
            If kinds, dtypes or shapes do not fit, a block holds NaN (or an infinite value where
            none may be), or Q is not positive semidefinite.
        """
        blocks = blocks_of(Q, p, G, h, A, b, lower, upper)
        check_numbers(blocks.params, NAMES, INFINITE)
        convexity = convexity_of(blocks.params[0], blocks.samples)
        if self.engine == "auto":
            engines = choose(traits_of(blocks, convexity), self._limits)
        else:
            engine_called(self.engine).check_installed()
            engines = (self.engine,)
        if convexity == "linear":
            blocks = dataclasses.replace(blocks, params=(None, *blocks.params[1:]))
        solve = functools.partial(solve_one, engines=engines, limits=self._limits)
        blank = functools.partial(_blank, blocks.n, blocks.m, blocks.k)
        if engines == ("moreau",) and self._whole_batch(blocks):
            return solve_together(blocks, self._limits, blank)
        return solve_samples(
            solve,
            blocks.params,
            names=NAMES,
            in_dims=blocks.in_dims,
            settings=self,
            releases_gil=engine_called(engines[0]).releases_gil,
            blank=blank,
            checked=True,
        )

    def _whole_batch(self, blocks: Blocks) -> bool:
        alone = blocks.samples is None or blocks.samples < 2
        return not alone and self.executor == "auto" and self.warm_start is None

    @property
    def _limits(self) -> Limits:
        fields = dataclasses.fields(Limits)
        return Limits(**{field.name: getattr(self, field.name) for field in fields})


def _blank(n: int, m: int, k: int) -> Solution:
    nan = functools.partial(np.full, fill_value=np.nan)
    return Solution(nan(n), 0, Multipliers(nan(m), nan(k), nan(n)), None, "")
