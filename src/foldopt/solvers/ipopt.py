"""Ipopt, for smooth programs that need not be convex."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foldopt._program import Constraint, Function, Program
from foldopt._tree import flatten
from foldopt.solvers._ipopt.derivatives import detect, first_sample
from foldopt.solvers._ipopt.engines import ENGINES, installed
from foldopt.solvers._ipopt.run import Job, solve_one
from foldopt.solvers._ipopt.sparsity import Pattern, full_pattern
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._run.samples import solve_samples
from foldopt.solvers._settings import Settings
from foldopt.solvers._start import (
    StartLike,
    batch_of,
    check_real,
    check_size,
    point_of,
    reference_of,
)
from foldopt.status import Solution, Status

__all__ = ["ENGINES", "Ipopt"]

# From so many variables on, "auto" looks for zeros. Below, dense derivatives cost as little.
_LARGE = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Ipopt(Settings):
    r"""Solve smooth programs with Ipopt: interior points, exact derivatives, local solutions.

    .. math:: \min_x f(x) \quad\text{s.t.}\quad g(x) \le 0,\; h(x) = 0,\; l \le x \le u,

    convex or not. Gradients, Jacobians and the Hessian of the Lagrangian come from
    ``torch.func`` on the functions themselves, in float64.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
    inequality, equality
        g and h, of one sample: a vector, or a list of tensors to join. None: there are none.
    lower, upper
        Bounds of x, ``(n,)`` or ``(B, n)``, ±inf where there is none; None: none at all. They are
        constants: a bound to be differentiated belongs into ``inequality``.
    shared
        Which of the params, by position, all samples share. The others have one row a sample;
        numbers are shared.
    start
        Where to begin: ``(n,)``, ``(B, n)``, or a function of the params, ``start(*params)``.
        None: zero, or what the bounds allow that is nearest to it. Which local solution is found,
        and whether, depends on it.
    n
        The number of variables, needed if neither ``start`` nor bounds tell it.
    batch_dims
        1 for params with one row a sample, 0 for those of a single one.
    sparse
        Whether to look for entries of the Jacobian and the Hessian that are always zero, once a
        structure: ``"auto"`` does from 50 variables on. What is zero at four random points (x and
        the params moved) is taken for zero. That is a heuristic: it can miss an entry that
        differs from zero in a branch only. False: no entry is left out.
    engine
        Which package brings Ipopt: ``"casadi"``, ``"ipyopt"`` or ``"cyipopt"``; ``"auto"``: the
        first of these that is installed.
    linear_solver
        Ipopt's, as far as the package has it; None: MUMPS.
    options
        Ipopt's own options by their names, such as ``{"mu_strategy": "adaptive"}``; those win.
    rtol
        Ipopt's ``tol``; None: 1e-10.
    atol
        Ipopt's ``dual_inf_tol``, ``constr_viol_tol`` and ``compl_inf_tol``; None: 1e-8 for the
        constraints, and Ipopt's own for the others.
    max_iterations, time_limit, threads, executor, warm_start
        As for every solver here. ``max_iterations=None``: 3000. ``threads`` has no effect. A warm
        start uses x and all multipliers. Since Python evaluates the functions, processes serve a
        batch, not threads.

    Notes
    -----
    Where Ipopt reports success, the optimality conditions are computed afresh, without the sparsity
    pattern: their largest relative violation is at most 1e-7 (or ``rtol``, if that is more), or
    the status is INACCURATE. An answer that Ipopt itself calls only acceptable is CONVERGED if
    they hold to ``rtol``. INFEASIBLE means that Ipopt found a point where the violation has a
    local minimum, no proof that there is no feasible one; UNBOUNDED that its iterates diverged.

    Ipopt is told not to relax bounds (``bound_relax_factor=0``).

    References
    ----------
    A. Wächter, L. T. Biegler, Math. Program. 106 (2006), 25–57.

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> farthest = solvers.Ipopt(lambda x, r: -x[0], lambda x, r: x @ x - r**2, n=2)
    >>> solution = farthest(torch.tensor([[2.0], [3.0]]))
    >>> solution.status.tolist()
    [0, 0]
    >>> solution.multipliers.inequality  # -1 + 2 λ x = 0
    tensor([[0.2500],
            [0.1667]])
    """

    objective: Function
    inequality: Constraint | None = None
    equality: Constraint | None = None
    lower: Tensor | np.ndarray | None = None
    upper: Tensor | np.ndarray | None = None
    _: dataclasses.KW_ONLY
    shared: Sequence[int] = ()
    start: StartLike = None
    n: int | None = None
    batch_dims: Literal[0, 1] = 1
    sparse: bool | Literal["auto"] = "auto"
    engine: str = "auto"
    linear_solver: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _patterns: dict[Any, Pattern] = dataclasses.field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        Program.of(self.objective, self.inequality, self.equality, self.shared, "solvers.Ipopt")
        if self.engine != "auto" and self.engine not in ENGINES:
            raise ValueError(
                f"solvers.Ipopt: there is no engine {self.engine!r}, only 'auto', "
                f"{', '.join(map(repr, ENGINES))}"
            )
        if self.sparse not in (True, False, "auto"):
            raise ValueError(f"sparse must be True, False or 'auto', got {self.sparse!r}")
        if self.batch_dims not in (0, 1):
            raise ValueError(f"batch_dims must be 0 or 1, got {self.batch_dims!r}")
        check_size("solvers.Ipopt", self.n)
        for name in ("lower", "upper"):
            bound = getattr(self, name)
            if bound is not None and (
                not isinstance(bound, (Tensor, np.ndarray)) or bound.ndim not in (1, 2)
            ):
                raise ValueError(
                    f"{name} must be a tensor of shape (n,) or (B, n), or None, got "
                    f"{tuple(bound.shape) if hasattr(bound, 'shape') else bound!r}"
                )

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
            :class:`~foldopt.solvers.Multipliers`. ``messages`` holds Ipopt's own return status
            where it is not plain success. Without any param that has a row for each sample, x
            is ``(n,)``.

        Raises
        ------
        ImportError
            If no package that brings Ipopt is installed.
        TypeError
            If a param is complex.
        ValueError
            If shapes do not fit, or a param is not finite.
        """
        engine = installed(self.engine)
        check_real("solvers.Ipopt", {f"param {i}": param for i, param in enumerate(params)})
        x0 = self._begin(params)
        program = Program.of(
            self.objective, self.inequality, self.equality, self.shared, "solvers.Ipopt"
        )
        in_dims = batch_of("solvers.Ipopt", params, self.shared, self.batch_dims)
        first = first_sample(params, in_dims)
        at = (x0 if x0.dim() == 1 else x0[:1].reshape(-1)).detach().cpu().to(torch.float64)
        # Run once here, so that an error in a function is raised as it is, and not a sample's.
        with torch.no_grad():
            program.checked_value(self.objective(at, *first))
            counts = len(program.inequalities(at, first)), len(program.equalities(at, first))
        job = Job(
            program, engine, self._options(), self._pattern(program, first, at, sum(counts)),
            counts, 1e-10 if self.rtol is None else float(self.rtol),
        )  # fmt: skip

        def blank() -> Solution:
            lost = [np.full(size, np.nan) for size in (len(at), *counts, len(at))]
            return Solution(lost[0], int(Status.FAILED), Multipliers(*lost[1:]), None, "")

        rows = [None if part is None or part.ndim == 1 else 0 for part in self._frame(x0)]
        return solve_samples(
            functools.partial(solve_one, job),
            (*params, *self._frame(x0)),
            names=(*(f"param {i}" for i in range(len(params))), "start", "lower", "upper"),
            in_dims=(*in_dims, *rows),
            settings=self,
            releases_gil=ENGINES[engine]["releases_gil"],
            blank=blank,
            infinite=("lower", "upper"),
        )

    # -- arguments ------------------------------------------------------------------------------

    def _frame(self, x0: Tensor) -> tuple[Any, Any, Any]:
        return x0, self.lower, self.upper

    def _begin(self, params: tuple[Any, ...]) -> Tensor:
        """The start, and that n is one number everywhere."""
        sizes = {"n": self.n}
        for name in ("lower", "upper"):
            bound = getattr(self, name)
            sizes[name] = None if bound is None else bound.shape[-1]
        given = next((size for size in sizes.values() if size is not None), None)
        if self.start is not None:
            x0 = point_of("solvers.Ipopt", self.start, params)
        elif given is None:
            raise ValueError(
                "solvers.Ipopt: the number of variables is unknown. Give start=, n=, or bounds"
            )
        else:
            like = reference_of(params)
            x0 = torch.zeros(given, dtype=torch.float64 if like is None else like.dtype)
        sizes["start"] = x0.shape[-1]
        known = {name: size for name, size in sizes.items() if size is not None}
        if len(set(known.values())) > 1:
            raise ValueError(
                "solvers.Ipopt: the number of variables differs: "
                + ", ".join(f"{size} in {name}" for name, size in known.items())
            )
        return x0

    def _options(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "print_level": 0, "sb": "yes", "tol": 1e-10, "constr_viol_tol": 1e-8,
            "bound_relax_factor": 0.0, "max_iter": 3000,
        }  # fmt: skip
        found |= self.chosen(rtol="tol", max_iterations="max_iter", time_limit="max_wall_time")
        found |= self.chosen(linear_solver="linear_solver")
        if self.atol is not None:
            found |= dict.fromkeys(
                ("dual_inf_tol", "constr_viol_tol", "compl_inf_tol"), float(self.atol)
            )
        return found | dict(self.options)

    def _pattern(self, program: Program, first: tuple[Any, ...], x: Tensor, m: int) -> Pattern:
        if self.sparse is False or (self.sparse == "auto" and len(x) < _LARGE):
            return full_pattern(m, len(x))
        leaves, _ = flatten(first)
        key = (len(x), m, tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)))
        if key not in self._patterns:
            generator = torch.Generator().manual_seed(0)
            self._patterns[key] = detect(program, first, x, m, generator)
        return self._patterns[key]
