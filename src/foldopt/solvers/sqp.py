"""Sequential quadratic programming for a whole batch at once, in PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt._program import Constraint, Function, Program
from foldopt._tree import flatten, unflatten
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._run.arrays import check_params
from foldopt.solvers._settings import Settings
from foldopt.solvers._sqp.loop import Limits, State, solve
from foldopt.solvers._start import (
    StartLike,
    batch_of,
    check_dtypes,
    check_size,
    point_of,
    reference_of,
)
from foldopt.status import Solution, Status

__all__ = ["SQP"]

# Statuses whose x is worth handing on.
_WITH_X = (Status.CONVERGED, Status.MAX_ITERATIONS, Status.TIME_LIMIT, Status.STAGNATED)


@dataclasses.dataclass(frozen=True, eq=False)
class SQP(Settings):
    r"""Solve smooth programs by sequential quadratic programming, all samples at once, in PyTorch.

    .. math:: \min_x f(x) \quad\text{s.t.}\quad g(x) \le 0,\; h(x) = 0,

    convex or not, for up to some hundred variables. Every iteration solves a quadratic program with
    the exact Hessian of the Lagrangian, made positive definite where it is not, and goes along its
    solution as far as the merit function
    :math:`f(x) + \rho \left(\|[g(x)]_+\|_1 + \|h(x)\|_1\right)` falls. Samples that are done drop
    out. It runs on the device of its params, in their dtype.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
    inequality, equality
        g and h, of one sample: a vector, or a list of tensors to join. None: there are none. Bounds
        are inequalities.
    shared
        Which of the params, by position, all samples share. The others have one row a sample;
        numbers are shared.
    start
        Where to begin: ``(n,)``, ``(B, n)``, or a function of the params, ``start(*params)``;
        None: zero. Which local solution is found, and whether, depends on it.
    n
        The number of variables, needed if there is no ``start``.
    batch_dims
        1 for params with one row a sample, 0 for those of a single one.
    rtol
        A sample has converged once every first-order condition holds to this, relative to its
        terms; None: 4e-10 in float64, 7e-5 in float32.
    atol
        Added to ``rtol``: the terms have a size of 1 or more.
    max_iterations
        None: 200.
    time_limit
        Seconds for the whole batch; None: no limit.
    threads, executor, warm_start
        Of no effect: the samples share their iterations.

    Notes
    -----
    CONVERGED says that the first-order conditions hold, nothing else does. INFEASIBLE: the squares
    of the violation have a stationary point here, no proof that nothing is feasible. UNBOUNDED: x
    left every sensible range, while f fell below zero. STAGNATED: no step helped any more; x is the
    last one.

    Where linearized constraints contradict one another, a damped least-squares step on the violated
    ones takes the place of the quadratic program.

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), Sections 18.3–18.4 (merit function,
    second-order correction). G. Debreu, Econometrica 20 (1952), 295–300 (the Hessian).

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> farthest = solvers.SQP(lambda x, r: -x[0], lambda x, r: x @ x - r**2, n=2)
    >>> solution = farthest(torch.tensor([[2.0], [3.0]]))
    >>> solution.status.tolist()
    [0, 0]
    >>> solution.multipliers.inequality.round(decimals=3)  # -1 + 2 λ x = 0
    tensor([[0.2500],
            [0.1670]])
    """

    objective: Function
    inequality: Constraint | None = None
    equality: Constraint | None = None
    _: dataclasses.KW_ONLY
    shared: Sequence[int] = ()
    start: StartLike = None
    n: int | None = None
    batch_dims: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        Program.of(self.objective, self.inequality, self.equality, self.shared, "solvers.SQP")
        check_size("solvers.SQP", self.n)
        if self.batch_dims not in (0, 1):
            raise ValueError(f"batch_dims must be 0 or 1, got {self.batch_dims!r}")
        if self.start is None and self.n is None:
            raise ValueError("solvers.SQP: the number of variables is unknown. Give start= or n=")

    def __call__(self, *params: Any) -> Solution:
        """Solve every sample.

        Parameters
        ----------
        *params
            What the functions take after x: tensors, or nested tuples, lists or dicts of them,
            with one row a sample, except for the ``shared`` ones.

        Returns
        -------
        Solution
            x ``(B, n)``, the status of each sample, and
            :class:`~foldopt.solvers.Multipliers`, those of bounds zero. Without any param that has
            a row for each sample, x is ``(n,)`` if the start is.

        Raises
        ------
        TypeError, ValueError
            If shapes or kinds do not fit, or a param holds NaN or inf.
        """
        check_params(params)
        check_dtypes("solvers.SQP", params)
        for i, param in enumerate(params):
            if isinstance(param, Tensor) and param.layout != torch.strided:
                raise TypeError(
                    f"solvers.SQP: param {i} must be dense, got {param.layout}: pass .to_dense()"
                )
        dims = batch_of("solvers.SQP", params, self.shared, self.batch_dims)
        common = tuple(i for i, dim in enumerate(dims) if dim is None)
        program = Program.of(self.objective, self.inequality, self.equality, common, "solvers.SQP")
        params = _detached(params)
        x, alone = self._begin(params, dims)
        with torch.no_grad():
            # Once on the first sample: errors in the functions are raised before all else.
            g, _, h, _ = program.constraints(x, params)
        eps = torch.finfo(x.dtype).eps ** 0.6
        limits = Limits(
            (eps if self.rtol is None else self.rtol) + (self.atol or 0.0),
            200 if self.max_iterations is None else self.max_iterations,
            self.time_limit,
        )
        state = solve(
            program, State.of(x, torch.zeros_like(g), torch.zeros_like(h)), params, limits
        )
        return _answer(state, alone)

    def _begin(self, params: tuple[Any, ...], dims: list[int | None]) -> tuple[Tensor, bool]:
        """The start as ``(B, n)``, and whether that is one sample without a batch."""
        sizes = [
            len(leaf)
            for param, dim in zip(params, dims, strict=True)
            if dim == 0
            for leaf in flatten(param)[0]
            if isinstance(leaf, Tensor) and leaf.dim()
        ]
        if self.start is None:
            assert self.n is not None
            like = reference_of(params)
            x = torch.zeros(self.n, dtype=torch.float64) if like is None else like.new_zeros(self.n)
        else:
            x = point_of("solvers.SQP", self.start, params)
        if self.n is not None and x.shape[-1] != self.n:
            raise ValueError(f"solvers.SQP: n is {self.n}, and start has {x.shape[-1]} variables")
        alone = x.dim() == 1 and not sizes
        if x.dim() == 1:
            x = x.expand(sizes[0] if sizes else 1, -1)
        if sizes and len(x) != sizes[0]:
            raise ValueError(
                f"solvers.SQP: start has {len(x)} rows, and the params {sizes[0]} samples"
            )
        return x.clone(), alone


def _answer(state: State, alone: bool) -> Solution:
    """NaN where there is no solution."""
    known = torch.zeros_like(state.status, dtype=torch.bool)
    for status in _WITH_X:
        known = known | (state.status == int(status))
    parts = [
        torch.where(known[:, None], part, torch.nan)
        for part in (state.x, state.lam, state.nu, torch.zeros_like(state.x))
    ]
    status = state.status
    texts = ["" if code == 0 else Status(code).name for code in status.tolist()]
    if alone:
        parts, status = [part[0] for part in parts], status[0]
    return Solution(parts[0], status, Multipliers(*parts[1:]), None, tuple(texts))


def _detached(params: tuple[Any, ...]) -> tuple[Any, ...]:
    leaves, spec = flatten(params)
    return unflatten([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
