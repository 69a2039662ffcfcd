"""A CVXPY problem as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cvxpy as cp
import torch
from cvxpy.error import SolverError as CvxpySolverError
from torch import Tensor, nn

from foldopt._arguments import AUTO, CERTIFY, OnFailure, check_arguments
from foldopt._calculus import transforms_active
from foldopt._call import graph_break
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.cvxpy._arguments import check_problem, checked_values, common_dtype
from foldopt.cvxpy._canonical import canonical
from foldopt.cvxpy._conic import Conic
from foldopt.cvxpy._engines.choose import Engine, checked_name, default_engine, engine_of
from foldopt.cvxpy._quadratic import quadratic
from foldopt.nn.qp import QP, QPSolution
from foldopt.status import FoldError

__all__ = ["CvxpyLayer", "CvxpySolution", "SolverError"]


class SolverError(CvxpySolverError, FoldError):
    """A problem that was not solved: infeasible, unbounded, or beyond the solver's limits.

    Attributes
    ----------
    status
        The :class:`~foldopt.Status` of each sample, ``(batch,)``.
    """

    def __init__(self, message: str, status: Tensor | None = None) -> None:
        FoldError.__init__(self, message, status)


class CvxpySolution(NamedTuple):
    """What :class:`CvxpyLayer` returns with ``status=True``.

    Attributes
    ----------
    variables
        The tensors that it returns otherwise.
    status
        The :class:`~foldopt.Status` of each sample, ``(B,)``, or ``()`` without a batch.
    """

    variables: tuple[Tensor, ...]
    status: Tensor


class CvxpyLayer(nn.Module):
    r"""Solve a CVXPY problem for tensors in the place of its parameters, differentiably.

    The problem is canonicalized once. For each sample the parameters then give a cone program,

    .. math:: \min_x \tfrac12 x^\top P x + q^\top x \quad\text{s.t.}\quad A x + s = b,\; s \in K,

    with K a product of zero, nonnegative, second-order, semidefinite, exponential and power cones.
    Forward: the solver's answer, polished to rounding by Newton's method. Backward: the step is the
    residual of the optimality conditions, with s and the dual y as projections of y − s; I − Φ is
    one symmetric matrix, factored once, dense or sparse. Without a ``solver``, smaller programs
    with linear constraints alone go to :class:`foldopt.nn.QP`. It takes the place of cvxpylayers'
    ``CvxpyLayer``: the arguments up to ``solver_args``, and those of a call, are the same.

    Parameters
    ----------
    problem
        A ``cvxpy.Problem`` that is DPP (``problem.is_dpp()``). ``quad_form(x, P)`` with a parameter
        P may stand in its objective, and stays quadratic.
    parameters
        All of ``problem.parameters()``, in the order in which their values are given.
    variables
        What is returned: variables of the problem, and dual variables of its constraints
        (``constraint.dual_variables``), which have derivatives too.
    solver
        The name of any solver that CVXPY can call and that returns dual variables. None: Clarabel,
        unless see above. "DIFFCP": the same with the arguments of diffcp.
    gp
        Whether the problem is a geometric program (DGP). Its parameters and variables are then
        seen by the solver as logarithms.
    verbose
        Whether the solver may print.
    canon_backend
        CVXPY's canonicalization backend; None: CVXPY's choice.
    solver_args
        The solver's own settings. Of Clarabel and SCS also ``eps``, the tolerance.
    status
        Return a :class:`CvxpySolution` and not the tensors alone.
    on_failure
        What to do about a sample that is infeasible, unbounded or not solved: ``"raise"`` a
        :class:`SolverError`; ``"warn"``; or ``"mask"``: its values are NaN and its gradient zero,
        and the others are exact; see :func:`~foldopt.fold`.
    certify
        The thresholds of the certificate, a :class:`~foldopt.Certify`.

    Raises
    ------
    ValueError
        If the problem is not DPP, or parameters or variables are not its own.
    TypeError
        If an argument is not of its kind.
    NotImplementedError
        If a variable is complex, or a dual variable is not in the cone program.

    Notes
    -----
    Where a constraint is only just active, the solution has one-sided derivatives only. The
    derivative given is an element of the generalized Jacobian, and :func:`~foldopt.record` says so
    in the messages of the forward event. Of a parameter that is symmetric by its attributes, the
    symmetric part counts.

    References
    ----------
    A. Agrawal, B. Amos, S. Barratt, S. Boyd, S. Diamond, J. Z. Kolter, NeurIPS 2019 (the layer);
    E. Busseti, W. M. Moursi, S. Boyd, Comput. Optim. Appl. 74 (2019), 627–643 (the residual map).

    Examples
    --------
    The point of a half-space next to c:

    >>> import cvxpy as cp, torch
    >>> from foldopt.cvxpy import CvxpyLayer
    >>> x, c = cp.Variable(2), cp.Parameter(2)
    >>> nearest = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) <= 1])
    >>> layer = CvxpyLayer(nearest, parameters=[c], variables=[x])
    >>> value = torch.tensor([[2.0, 1.5], [0.5, 0.25]], requires_grad=True)
    >>> (solution,) = layer(value)
    >>> solution.detach()
    tensor([[0.7500, 0.2500],
            [0.5000, 0.2500]])
    >>> torch.autograd.grad(solution[:, 0].sum(), value)[0] + 0.0
    tensor([[ 0.5000, -0.5000],
            [ 1.0000,  0.0000]])
    """

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: dict[str, Any] | None = None,
        *,
        status: bool = False,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        check_problem(problem, parameters, variables, gp)
        self.solver, self._asked = checked_name(solver), solver
        check_arguments(lambda x: x, AUTO, 1, on_failure, certify)
        self.solver_args = dict(solver_args or {})
        self.verbose = verbose
        self.status = status
        self.on_failure: OnFailure = on_failure
        self.certify = certify
        self._form = canonical(problem, parameters, variables, gp, canon_backend)
        self._quadratic = quadratic(self._form) if solver is None else None
        self._qp = QP(multipliers=True, on_failure=on_failure, certify=certify)
        self._conic = Conic(self._form, on_failure, certify)

    @graph_break
    def forward(
        self,
        *params: Tensor,
        solver_args: dict[str, Any] | None = None,
        warm_start: bool = False,
    ) -> tuple[Tensor, ...] | CvxpySolution:
        """Solve the problem, or a batch of them; any floating dtype, on any device.

        Computed on the CPU, in float64.

        Parameters
        ----------
        *params
            A tensor for each parameter: its shape, or that with a batch dimension in front. One
            without is the same for all samples, and its gradient is the sum over the batch.
        solver_args
            Settings of the solver for this call, which win over those of the layer.
        warm_start
            Begin with the solution of the last call, if it had as many samples. Newton's method
            from there may be all that is needed, whatever the solver.

        Returns
        -------
        tuple of Tensor, or CvxpySolution
            One tensor for each variable, with the batch dimension in front if there is one, in the
            dtype that the params have together.

        Raises
        ------
        SolverError
            If a sample is not solved, with its status; unless ``on_failure`` says otherwise.
        ValueError
            If the number or a shape of the tensors does not fit, or one holds NaN.
        TypeError
            If one is not a tensor, or the solver has no such setting.
        """
        form = self._form
        batched, count = checked_values(params, [one.shape for one in form.inputs])
        dtype = common_dtype(params)
        device = params[0].device if params else torch.device("cpu")
        self._refuse_nan(params)
        values = [
            make(value.to(device, torch.float64))
            for make, value in zip(form.inputs, params, strict=True)
        ]
        blocks = tuple(block(values, batched) for block in (form.P, form.q, form.A, form.b))
        options = self.solver_args | (solver_args or {})
        try:
            if self._quadratic is not None and not options and not self.verbose:
                x, y, seen = self._by_qp(blocks, count)
            else:
                engine = self._engine(options)
                x, y, seen = self._conic(blocks, count, engine, warm_start)
        except FoldError as error:
            if error.status is None:
                raise
            raise SolverError(str(error), error.status) from error
        read = (one(y if one.dual else x) for one in form.reads)
        results = (
            torch.exp(value) if form.gp and not one.dual else value
            for one, value in zip(form.reads, read, strict=True)
        )
        out = tuple(one.to(dtype) for one in results)
        return CvxpySolution(out, seen.to(device)) if self.status else out

    def _engine(self, options: dict[str, Any]) -> Engine:
        if self._asked is None and not options:
            return default_engine(self._form.cones, self._conic.layout, self.verbose)
        return engine_of(self.solver, options, self.verbose)

    def _refuse_nan(self, params: tuple[Tensor, ...]) -> None:
        if self.on_failure != "raise" or transforms_active():
            return  # such a sample is NONFINITE
        for i, value in enumerate(params):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"CvxpyLayer: parameter {i} holds NaN or inf. Look at where it comes from: a "
                    "network that has diverged, or missing data"
                )

    def _by_qp(self, blocks: Leaves, count: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and the status of a quadratic program that is better dense."""
        assert self._quadratic is not None
        made = self._quadratic.blocks(*blocks)
        p = made.p if count is None else made.p.expand(count, made.p.shape[-1])
        found = self._qp(made.Q, p, made.G, made.h, made.A, made.b)
        assert isinstance(found, QPSolution)
        return *self._quadratic.restore(made, found.x, found.multipliers), found.status

    def extra_repr(self) -> str:
        """The settings that are not the default."""
        shown = {
            "solver": (self.solver, "CLARABEL"),
            "status": (self.status, False),
            "on_failure": (self.on_failure, "raise"),
        }
        return ", ".join(
            f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual
        )
