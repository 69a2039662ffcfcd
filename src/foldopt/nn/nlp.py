"""Nonlinear programs as a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from foldopt import solvers
from foldopt._arguments import AUTO, CERTIFY, OnFailure, check_arguments
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._program import Constraint, Function
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.nn._nlp.adjoint import KKT, Degenerate
from foldopt.nn._nlp.engines import Limits
from foldopt.nn._nlp.model import Bound, Model, Point, flattened
from foldopt.nn._nlp.run import Engine, answer_of
from foldopt.nn._nlp.starts import Starts
from foldopt.nn._nlp.step import update_of
from foldopt.solvers._run.executors import ExecutorLike
from foldopt.step import Step

__all__ = ["NLP", "NLPSolution"]


class NLPSolution(NamedTuple):
    """What :class:`NLP` returns with ``multipliers=True``.

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


class NLP(nn.Module):
    r"""Solve smooth nonlinear programs, convex or not, with exact derivatives in all their params.

    .. math:: x^\star(c) = \arg\min_x f(x, c) \quad\text{s.t.}\quad
        g(x, c) \le 0,\; h(x, c) = 0,\; l(c) \le x \le u(c).

    The functions are of *one* sample, in PyTorch. Forward: a solver finds a local minimum, and
    Newton's method on its active set takes x and the multipliers to rounding error. Backward: the
    step is the residual of the optimality conditions, I − Φ the KKT matrix of the active
    constraints; it is factored once, dense for the whole batch or sparse for each sample, and
    serves every cotangent.

    Parameters
    ----------
    objective
        ``objective(x, *params)``, x of shape ``(n,)``: one number.
    inequality, equality
        g and h: a vector, or a list of tensors to join. None: there are none.
    bounds
        ``(lower, upper)``, each None, a number, a tensor ``(n,)`` (all constant, ±inf where there
        is none), or a function of one sample's params, with derivatives.
    solver
        ``"ipopt"``: :class:`~foldopt.solvers.Ipopt` on the CPU, exact first and second derivatives;
        ``"sqp"``: :class:`~foldopt.solvers.SQP`, the batch at once on the device of the params; or
        a function ``solver(*params)`` that returns x, or a :class:`~foldopt.Solution`: multipliers
        are found by least squares.
    n
        The number of variables, needed if neither a start nor a bound of shape ``(n,)`` tells it.
    start
        Where to begin if a call does not say, ``(n,)``; None: zero, or the bounds' nearest to it.
    starts
        How many starts to try for each sample, the best local optimum being kept. The first is
        ``start``; the others are random: uniform between bounds where both are finite, normal
        around the start with deviation 1 + |start| where not.
    seed
        Of those random starts, which are the same at each call.
    warm_start
        Begin at the last call's solution where batch and sizes are the same, and no start is given.
    shared
        Which of the params, by position, all samples share; single numbers always are.
    batch_dims
        How many leading dimensions of the params count samples; 0: a single sample.
    multipliers
        Return an :class:`NLPSolution` and not x alone.
    degenerate
        What to do where the solution has no derivative that could be trusted (see Notes) and one is
        asked for: ``"raise"``, a failure, that ``on_failure`` deals with; ``"least-squares"``, the
        pseudo-inverse of the KKT matrix; ``"damped"``, its Tikhonov regularisation. The last two
        are gradients of a nearby model: status LEAST_SQUARES.
    damping
        δ of ``"damped"``, relative to the size of the KKT matrix.
    sparse
        Whether derivatives and the KKT matrix are sparse, one sample at a time on the CPU:
        ``"auto"``: from 100 variables on. What is zero at random points is taken for zero, see
        :class:`~foldopt.solvers.Ipopt`.
    rtol, max_iterations, time_limit, executor, options
        The solver's, see :class:`~foldopt.solvers.Ipopt`; ``options`` is for Ipopt only.
    on_failure
        What to do about a sample that is not solved: ``"raise"``, ``"warn"``, or ``"mask"``: its
        gradient is zero, its x the solver's last or NaN, and the others are exact; see
        :func:`~foldopt.fold`.
    certify
        The thresholds of the certificate, a :class:`~foldopt.Certify`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    Optima are local: which one is found depends on the start, and its derivative is that of the
    branch it lies on. Where several starts end differently, :func:`~foldopt.record` says so in the
    messages of the forward event, and likewise, sample by sample:

    - constraints that are only just active: x has one-sided derivatives, and the one given is an
      element of the generalized Jacobian;
    - active constraints with dependent gradients (LICQ fails), or no curvature along them (the
      second-order condition fails): x is given, a derivative only as ``degenerate`` says;
    - a saddle or a maximum, which is a failure (FAILED), as is an answer whose relative KKT
      residual stays above 1e-8 (INACCURATE).

    INFEASIBLE means that the solver found no feasible point, not that there is none.

    The functions are evaluated in float64 to solve, and in the params' dtype to differentiate:
    tensors that they close over must follow x (``A.to(x)``), and may not require grad.

    References
    ----------
    arXiv 2301.12047, eq. 25–32; A. Fiacco, Introduction to Sensitivity and Stability Analysis in
    Nonlinear Programming (1983), Theorem 3.2.2; H. Pirnay, R. López-Negrete, L. Biegler, Math.
    Prog. Comp. 4 (2012), 307–331 (the KKT matrix of Ipopt's answer); A. Wächter, L. T. Biegler,
    Math. Program. 106 (2006), 25–57 (Ipopt).

    Examples
    --------
    The point of the disc of radius r that lies farthest in direction c:

    >>> import torch, foldopt as fo
    >>> far, disc = lambda x, c, r: -c @ x, lambda x, c, r: x @ x - r**2
    >>> layer = fo.nn.NLP(far, disc, n=2, start=torch.ones(2))
    >>> c, r = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor(2.0, requires_grad=True)
    >>> x = layer(c, r)
    >>> x.detach().round(decimals=4) + 0.0
    tensor([[1.2000, 1.6000],
            [2.0000, 0.0000]])
    >>> x[0, 0].backward()
    >>> r.grad
    tensor(0.6000)
    """

    def __init__(
        self,
        objective: Function,
        inequality: Constraint | None = None,
        equality: Constraint | None = None,
        bounds: tuple[Bound, Bound] | None = None,
        solver: Literal["ipopt", "sqp"] | Callable[..., Any] = "ipopt",
        *,
        n: int | None = None,
        start: Tensor | None = None,
        starts: int = 1,
        seed: int = 0,
        warm_start: bool = False,
        shared: Sequence[int] = (),
        batch_dims: int = 1,
        multipliers: bool = False,
        degenerate: Degenerate = "raise",
        damping: float = 1e-4,
        sparse: bool | Literal["auto"] = "auto",
        rtol: float | None = None,
        max_iterations: int | None = None,
        time_limit: float | None = None,
        executor: ExecutorLike = "auto",
        options: Mapping[str, Any] | None = None,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        self.model = Model.of(objective, inequality, equality, bounds, shared)
        check_arguments(update_of(self.model), AUTO, batch_dims, on_failure, certify)
        limits = Limits(rtol, max_iterations, time_limit, executor, dict(options or {}), sparse)
        self.engine = Engine(solver, limits)
        self.begin = Starts(self.model, n, start, starts, seed, warm_start)
        if degenerate not in ("raise", "least-squares", "damped"):
            raise ValueError(
                "nn.NLP: degenerate must be 'raise', 'least-squares' or 'damped', got "
                f"{degenerate!r}"
            )
        if not 0 < damping < float("inf"):
            raise ValueError(f"nn.NLP: damping must be above 0, got {damping!r}")
        self.batch_dims = batch_dims
        self.multipliers = multipliers
        self.degenerate: Degenerate = degenerate
        self.damping = damping
        self.on_failure: OnFailure = on_failure
        self.certify = certify

    @graph_break
    def forward(
        self, *params: Any, start: Tensor | None = None, starts: Tensor | None = None
    ) -> Tensor | NLPSolution:
        """Solve a program, or a batch of them; computed in float64.

        Parameters
        ----------
        *params
            What the functions take after x: tensors, or nested tuples, lists or dicts of them. Each
            has the batch shape in front, except for the ``shared`` ones; the gradient of a shared
            one is the sum over the batch.
        start
            Where to begin, ``(n,)`` or ``(*batch, n)``.
        starts
            Several starts, ``(k, n)`` or ``(*batch, k, n)``, the best local optimum being kept.

        Returns
        -------
        Tensor or NLPSolution
            x ``(*batch, n)``, or with multipliers and status if asked for at construction.

        Raises
        ------
        FoldError
            If a sample is not solved, with its status, or in the backward pass if it has no
            derivative; unless ``on_failure`` and ``degenerate`` say otherwise.
        TypeError, ValueError
            If kinds, dtypes or shapes do not fit, or a param holds NaN or inf (with
            ``on_failure="mask"``, NaN in a sample's own params makes that sample NONFINITE).
        """
        flat, batch, shared = flattened(params, self.model.program.shared, self.batch_dims)
        begin = self.begin.of(flat, batch, shared, start, starts, not callable(self.engine.solver))
        model = self.model.sharing(shared)
        step = Step(update_of(model), symmetric=True, name="NLP")
        adjoint = KKT(self.degenerate, self.damping, self.on_failure)
        call = prepare(step, flat, adjoint, 1, self.on_failure, self.certify, lambda: False)
        status: list[Tensor] = []

        def forward(problem: Problem, _starts: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor]:
            asked = call.solver_params(tensors)
            found = answer_of(self.engine, model, asked, begin, self.on_failure)
            adjoint.answers.append(found.answer)
            problem.messages = found.messages
            status[:] = [found.status]
            self.begin.remember(found.point)
            point = Point(*(part.to(begin.dtype) for part in found.point))
            return call.take_solution(point), found.status

        point = Point(*run(call, forward, ()))
        shape = begin.batch
        x, *rows = (part.reshape(*shape, part.shape[-1]) for part in point)
        if not self.multipliers:
            return x
        return NLPSolution(x, solvers.Multipliers(*rows), status[0].reshape(shape).to(x.device))

    def extra_repr(self) -> str:
        """The settings that are not the default."""
        shown = {
            "solver": (self.engine.solver, "ipopt"),
            "starts": (self.begin.count, 1),
            "multipliers": (self.multipliers, False),
            "degenerate": (self.degenerate, "raise"),
            "on_failure": (self.on_failure, "raise"),
        }
        return ", ".join(
            f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual
        )
