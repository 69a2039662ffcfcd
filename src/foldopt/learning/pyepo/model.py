"""A PyEPO ``optModel`` as a blackbox solver, and its objective as one that is minimised."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.learning.regret import Objective
from foldopt.solvers import solve_batch
from foldopt.status import Solution, Status

__all__ = ["full_cost", "objective", "offset_of", "sense_of", "solver"]

_GUROBI = {
    2: Status.CONVERGED,
    3: Status.INFEASIBLE,
    5: Status.UNBOUNDED,
    7: Status.MAX_ITERATIONS,  # of the simplex method
    8: Status.MAX_ITERATIONS,  # nodes
    9: Status.TIME_LIMIT,
    13: Status.INACCURATE,
}
_INTERRUPTED = 11


def solver(model: Any, executor: Any = None) -> Callable[[Any], Solution]:
    r"""Make a PyEPO model a solver of batches, to be folded with any step that fits its problem.

    The model minimises or maximises :math:`c^\top x`, whichever its ``modelSense`` says, and is
    asked for one cost vector after the other. Costs reach PyEPO's own backends in the precision
    that they have; what is behind ``setObj`` of your own model gets numpy arrays.

    Parameters
    ----------
    model
        A ``pyepo.model.opt.optModel``. It is used as it stands, cuts and solver parameters
        included; nobody else should use it during a call.
    executor
        Who works: see :func:`~foldopt.solvers.solve_batch`. Processes build their model anew from
        the arguments that made it, with its cuts; what was set on the model itself afterwards does
        not reach them. Threads take turns, and so bring nothing.

    Returns
    -------
    solve
        ``solve(c) -> Solution`` for costs ``(B, num_cost)``: x ``(B, n)`` and the status of each
        sample. One that the model raises for has status INFEASIBLE or UNBOUNDED where Gurobi says
        so and FAILED otherwise, x of NaN, and the error's text among the messages. Where Gurobi
        stopped at a limit with a point in hand, that point comes with TIME_LIMIT, MAX_ITERATIONS
        or INACCURATE. PyEPO's other backends hand such points over as if they were optimal, and
        nothing here can tell.

    Raises
    ------
    TypeError
        If ``model`` is no such model.
    ValueError
        If ``modelSense`` is neither 1 nor −1; when called, if c has another width than
        ``num_cost`` or holds NaN or inf.

    Notes
    -----
    The solution of a linear program is piecewise constant in c: a corner, until another corner
    becomes better. Its derivative is zero, which a fold reports faithfully and which teaches
    nothing. Three things can be done with it:

    - measure: regret needs solutions and no derivatives, see :func:`objective`;
    - add a quadratic term to the decision in training, ``½ ε ‖x‖²``, and solve and fold that
      (:func:`~foldopt.operators.quadratic_program` does both), then test on this solver;
    - fold it as it is where the feasible set is curved, as in PyEPO's portfolio problem with its
      limit on the variance: there x moves with c.

    References
    ----------
    B. Tang and E. Khalil, PyEPO, Mathematical Programming Computation 16 (2024), 297–335.

    Examples
    --------
    >>> import numpy as np, torch, foldopt as fo
    >>> from foldopt.learning.pyepo import solver
    >>> from pyepo.model.opt import optModel
    >>> class Cheapest(optModel):
    ...     def _getModel(self):
    ...         return None, range(3)
    ...     def setObj(self, c):
    ...         self.c = np.asarray(c)
    ...     def solve(self):
    ...         x = np.eye(3)[self.c.argmin()]
    ...         return x, self.c @ x
    >>> solve = solver(Cheapest())
    >>> c = torch.tensor([[3.0, 1.0, 2.0]])
    >>> solve(c).x
    tensor([[0., 1., 0.]])

    A corner of the simplex has no derivative to speak of; with ε = 2, the same problem does:

    >>> def decide(c, ε):
    ...     G, A = -torch.eye(3), torch.ones(1, 3)
    ...     return fo.operators.quadratic_program(
    ...         ε * torch.eye(3), c, G, torch.zeros(3), A, torch.ones(1)).x
    >>> x = decide(c.requires_grad_(), 2.0)
    >>> x.detach().round(decimals=4)
    tensor([[0.0000, 0.7500, 0.2500]])
    >>> torch.autograd.grad(x[0, 1], c)[0].round(decimals=4)
    tensor([[ 0.0000, -0.2500,  0.2500]])
    """
    sense_of(model)
    one = _One(model)

    def solve(c: Any) -> Solution:
        if c.ndim != 2 or c.shape[-1] != model.num_cost:
            raise ValueError(
                f"pyepo.solver: the model has {model.num_cost} costs, so that c must have shape "
                f"(B, {model.num_cost}); it has {tuple(c.shape)}"
            )
        return solve_batch(one, c, executor=executor)

    return solve


def objective(model: Any) -> Objective:
    r"""The objective of a PyEPO model as one to be minimised, for regret and for training.

    :math:`c^\top x`, or :math:`-c^\top x` where ``modelSense`` says maximise; regrets are then
    those of ``pyepo.metric.regret``.

    Parameters
    ----------
    model
        A ``pyepo.model.opt.optModel``.

    Returns
    -------
    f
        ``f(x, c)``: x ``(B, n)`` and c ``(B, num_cost)`` to ``(B,)``.

    Raises
    ------
    TypeError
        If ``model`` is no such model.
    ValueError
        If ``modelSense`` is neither 1 nor −1, or the model has a quadratic term beside c.

    References
    ----------
    As for :func:`solver`.

    Examples
    --------
    >>> import torch
    >>> from foldopt.learning.pyepo import objective
    >>> from pyepo.model.opt import optModel
    >>> class Dearest(optModel):
    ...     modelSense = -1
    ...     def _getModel(self):
    ...         return None, range(2)
    ...     def setObj(self, c):
    ...         self.c = c
    ...     def solve(self):
    ...         return self.c == self.c.max(), self.c.max()
    >>> objective(Dearest())(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 5]]))
    tensor([-5.])
    """
    sense = sense_of(model)
    if getattr(getattr(model, "problem", None), "obj_Q", None) is not None:
        raise ValueError(
            "pyepo.objective: the model has a quadratic term, which its costs do not show. Write "
            "the objective out, as f(x, c)"
        )

    def value(x: Tensor, c: Tensor) -> Tensor:
        return sense * ((full_cost(model, c) * x).sum(-1) + offset_of(model))

    return value


def sense_of(model: Any) -> int:
    """1 where a model minimises and −1 where it maximises; raise for what is no model."""
    lacking = [
        name
        for name in ("setObj", "solve", "num_cost", "modelSense")
        if isinstance(model, type) or not hasattr(model, name)
    ]
    if lacking:
        raise TypeError(
            "model must be an instance of pyepo.model.opt.optModel, with setObj, solve, num_cost "
            f"and modelSense; got {model!r}, which lacks {', '.join(lacking)}"
        )
    if model.modelSense not in (1, -1):
        raise ValueError(
            f"model.modelSense must be EPO.MINIMIZE (1) or EPO.MAXIMIZE (-1), got "
            f"{model.modelSense!r}"
        )
    return int(model.modelSense)


def full_cost(model: Any, c: Tensor) -> Tensor:
    """The cost of every variable, where c is that of some only."""
    lift = getattr(model, "_fullCost", None)
    return c if lift is None else lift(c)


def offset_of(model: Any) -> float:
    """The constant that a model of PyEPO's modelling language adds to its value."""
    return float(getattr(getattr(model, "problem", None), "obj_offset", 0.0))


class _One:
    """One cost vector after the other; sent to another process, it builds a model there."""

    def __init__(self, model: Any) -> None:
        self._model: Any = model
        self._recipe: Any = None
        self._lock = threading.Lock()  # the objective is a state of the model

    def __call__(self, c: np.ndarray) -> Solution:
        with self._lock:
            if self._model is None:
                self._model = _rebuilt(*self._recipe)
            return _solve(self._model, c)

    def __getstate__(self) -> Any:
        cuts = [(np.array(coefs), rhs) for coefs, rhs in getattr(self._model, "_extra_constrs", [])]
        return self._model.to_spec(), cuts

    def __setstate__(self, recipe: Any) -> None:
        self._model, self._recipe, self._lock = None, recipe, threading.Lock()


def _rebuilt(spec: Any, cuts: list[tuple[np.ndarray, float]]) -> Any:
    model = spec.build()
    for coefs, rhs in cuts:
        model = model.addConstr(coefs, rhs)
    return model


def _solve(model: Any, c: np.ndarray) -> Solution:
    # PyEPO casts arrays to float32 on their way to its backends, and leaves tensors as they are.
    owner = next(kind for kind in type(model).__mro__ if "setObj" in vars(kind))
    own = owner.__module__.split(".")[0] == "pyepo"
    model.setObj(torch.from_numpy(c.copy()) if own else c)
    width = full_cost(model, torch.zeros(len(c))).shape[-1]
    try:
        x, _ = model.solve()
    except ImportError:
        raise
    except Exception as error:
        status = _gurobi_status(model)
        known = status in (Status.INFEASIBLE, Status.UNBOUNDED)
        said = f"{type(error).__name__}: {error}"
        return Solution(np.full(width, np.nan), status if known else Status.FAILED, messages=said)
    x = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    x = x.astype(np.float64).reshape(-1)
    if len(x) != width:
        raise ValueError(
            f"solve() returned {len(x)} numbers for {width} costs; it must return one for each"
        )
    status = _gurobi_status(model)
    if status in (None, Status.CONVERGED):
        return Solution(x, Status.CONVERGED)
    return Solution(x, status, messages=f"Gurobi: status code {model._model.Status}")


def _gurobi_status(model: Any) -> Status | None:
    """What Gurobi says of its last solve; None: it is not behind this model."""
    engine: Any = getattr(model, "_model", None)
    if type(engine).__module__.split(".")[0] != "gurobipy":
        return None
    code = engine.Status
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return _GUROBI.get(code, Status.FAILED)
