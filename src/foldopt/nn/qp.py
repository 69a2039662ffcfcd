"""Quadratic programs as a layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from foldopt import solvers
from foldopt._arguments import AUTO, CERTIFY, OnFailure, check_arguments
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.nn._qp.adjoint import KKT
from foldopt.nn._qp.answer import Answer
from foldopt.nn._qp.forward import solve
from foldopt.nn._qp.program import Program, program_of
from foldopt.nn._qp.sparse.layer import solve_sparse
from foldopt.nn._qp.sparse.program import any_sparse
from foldopt.nn._qp.step import State, params_vjp, update
from foldopt.step import Step

__all__ = ["QP", "QPSolution"]

_STEP = Step(update, symmetric=True, name="KKT", params_vjp=params_vjp, bound=True)


class QPSolution(NamedTuple):
    """What :class:`QP` returns with ``multipliers=True``.

    Attributes
    ----------
    x
        The solution, ``(*batch, n)``.
    multipliers
        :class:`~foldopt.solvers.Multipliers`: λ ≥ 0 of the inequalities, those of the equalities,
        and of the bounds (positive at an upper one, ``(*batch, 0)`` if there are none). They have
        derivatives too.
    status
        :class:`~foldopt.Status` of each sample, ``(*batch,)``.
    """

    x: Tensor
    multipliers: solvers.Multipliers
    status: Tensor


class QP(nn.Module):
    r"""Solve convex quadratic programs, with exact derivatives in all their data.

    .. math:: x^\star = \arg\min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad
        G x \le h,\; A x = b,\; l \le x \le u.

    Forward: where Q is positive definite, an active-set method finds which constraints are active,
    and one KKT system then gives x and the multipliers to rounding error. Other programs go to the
    engines of :class:`foldopt.solvers.QP`. Backward: the step is the residual of the optimality
    conditions, so that I − Φ is that KKT matrix, whose factors serve every cotangent.

    Sparse: Q, G and A may all be CSR or COO tensors, whose gradients then have the same layout and
    pattern. An interior-point engine tells which constraints are active, and one sparse
    factorization of their KKT matrix serves both passes; nothing dense of the size of Q is formed.

    Parameters
    ----------
    multipliers
        Return a :class:`QPSolution` and not x alone.
    regularization
        ε ≥ 0 of a term (ε/2)‖x‖² added to the objective. A linear program is solved at vertices,
        which move with the constraints only: with ε > 0 its x follows p as well. It changes the
        solution, and is 0 unless asked for.
    engines
        A :class:`foldopt.solvers.QP` for the programs that need one; its limits (``time_limit``,
        ``max_iterations``) and workers are those of the engine. None: its defaults.
    on_failure
        What to do about a sample that is infeasible, unbounded, not convex or not solved:
        ``"raise"``, ``"warn"``, or ``"mask"``: its x is NaN and its gradient zero, and the others
        are exact; see :func:`~foldopt.fold`.
    certify
        The thresholds of the certificate, a :class:`~foldopt.Certify`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    Where the multiplier of an active constraint is zero, or a constraint that is not needed holds
    with equality, x has one-sided derivatives only. The derivative given is an element of the
    generalized Jacobian, and :func:`~foldopt.record` says so in the messages of the forward event.
    Multipliers of constraints that depend on one another are those of least norm.

    References
    ----------
    arXiv 2301.12047, eq. 25–31; B. Amos, J. Z. Kolter, ICML 2017 (the KKT derivative);
    D. Arnström, A. Bemporad, D. Axehill, IEEE Trans. Automatic Control 67 (2022) (DAQP).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> layer = fo.nn.QP()
    >>> p = torch.tensor([[-1.0, -3.0], [1.0, 0.5]], requires_grad=True)
    >>> x = layer(torch.eye(2), p, upper=torch.tensor([2.0, 2.0]))
    >>> x.detach()
    tensor([[ 1.0000,  2.0000],
            [-1.0000, -0.5000]])
    >>> torch.autograd.grad(x[:, 0].sum(), p)[0] + 0.0
    tensor([[-1.,  0.],
            [-1.,  0.]])
    """

    def __init__(
        self,
        *,
        multipliers: bool = False,
        regularization: float = 0.0,
        engines: solvers.QP | None = None,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        check_arguments(_STEP, AUTO, 1, on_failure, certify)
        if not 0 <= regularization < float("inf"):
            raise ValueError(f"nn.QP: regularization must be 0 or more, got {regularization}")
        if engines is not None and not isinstance(engines, solvers.QP):
            raise TypeError(
                f"nn.QP: engines must be a foldopt.solvers.QP, got {type(engines).__name__}"
            )
        self.multipliers = multipliers
        self.regularization = regularization
        self.engines = solvers.QP() if engines is None else engines
        self.on_failure: OnFailure = on_failure
        self.certify = certify

    @graph_break
    def forward(
        self,
        Q: Tensor,
        p: Tensor,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        lower: Tensor | float | None = None,
        upper: Tensor | float | None = None,
    ) -> Tensor | QPSolution:
        """Solve a program, or a batch of them; float32 or float64, on any device.

        Each block is the same for all samples, or has the batch shape in front; the gradient of
        one that is shared is the sum over the batch. Computed on the CPU, in float64.

        If one of Q, G and A is sparse, all of them must be: a COO matrix, which all samples share,
        or a CSR tensor, which may have the batch shape in front. A linear program's Q then has no
        entries. Their gradients are sparse, with an entry wherever the tensor has one.

        Parameters
        ----------
        Q
            Positive semidefinite, ``(n, n)`` or ``(*batch, n, n)``; the symmetric part counts.
        p
            ``(n,)`` or ``(*batch, n)``.
        G, h
            ``(m, n)`` and ``(m,)``, where h may hold +inf; None: no inequalities.
        A, b
            ``(k, n)`` and ``(k,)``; None: no equalities.
        lower, upper
            ``(n,)`` or one number, and may hold −inf and +inf; None: no bounds. A variable is
            fixed where they are equal.

        Returns
        -------
        Tensor or QPSolution
            x ``(*batch, n)``, or with multipliers and status if asked for at construction.

        Raises
        ------
        FoldError
            If a sample is not solved, with its status; unless ``on_failure`` says otherwise.
        TypeError, ValueError
            If kinds, dtypes or shapes do not fit, or a block holds NaN (with
            ``on_failure="mask"``, NaN in a sample's own data makes that sample NONFINITE).
        """
        if any_sparse(Q, G, A):
            given = (Q, p, G, h, A, b, lower, upper)
            point, seen = solve_sparse(
                given,
                regularization=self.regularization,
                engines=self.engines,
                on_failure=self.on_failure,
                certify=self.certify,
            )
            if not self.multipliers:
                return point.x
            return QPSolution(point.x, solvers.Multipliers(*point[1:]), seen)
        program, batch = program_of(Q, p, G, h, A, b, lower, upper)
        if self.regularization:
            eye = torch.eye(program.sizes[0], dtype=program.p.dtype, device=program.p.device)
            program = program._replace(Q=program.Q + self.regularization * eye)
        adjoint = KKT()
        call = prepare(
            _STEP, tuple(program), adjoint, 1, self.on_failure, self.certify, lambda: False
        )
        answers: list[Answer] = []

        def by_active_set(
            problem: Problem, _starts: Leaves, tensors: Leaves
        ) -> tuple[Leaves, Tensor | None]:
            given = Program(*tensors)
            answer = adjoint.answer = self._solve(given)
            problem.messages, answers[:] = answer.messages, [answer]
            if given.p.dtype == torch.float64 and given.p.device.type == "cpu":
                # What is returned is what was looked at. Not the same object: autograd would hang
                # itself on it, and hold the answer in a cycle.
                problem.residual = answer.residual
                point = (part.detach() for part in answer.point)
            else:
                point = (part.to(given.p, copy=True) for part in answer.point)
            return call.take_own(State(*point)), answer.status

        x, rows = run(call, by_active_set, ())
        if len(batch) != 1:
            x, rows = (part.reshape(*batch, part.shape[-1]) for part in (x, rows))
        if not self.multipliers:
            return x
        _, m, k, _ = program.sizes
        multipliers = rows[..., :m], rows[..., m : m + k], rows[..., m + k :]
        found = answers[0].status
        status = torch.zeros(batch, dtype=torch.int64) if found is None else found.clone()
        status = status.reshape(batch).to(x.device)
        return QPSolution(x, solvers.Multipliers(*multipliers), status)

    def _solve(self, program: Program) -> Answer:
        """The forward pass on plain tensors."""
        p = program.p
        program = Program(*(block.detach() for block in program))
        if p.dtype != torch.float64 or p.device.type != "cpu":
            program = Program(*(block.to("cpu", torch.float64) for block in program))
        return solve(program, self.engines, self.on_failure == "raise")

    def extra_repr(self) -> str:
        """The settings that are not the default."""
        shown = {
            "multipliers": (self.multipliers, False),
            "regularization": (self.regularization, 0.0),
            "on_failure": (self.on_failure, "raise"),
        }
        return ", ".join(
            f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual
        )
