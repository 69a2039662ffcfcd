"""What the bilinear study rests on: global optima by other solvers, and the need for ε."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from foldopt.experiments.bilinear.layer import folded_program
from foldopt.experiments.bilinear.program import GAP, Bilinear, Forward, search, solve_globally
from foldopt.learning import Examples, Training, end_to_end
from foldopt.solvers.global_qp import GlobalQP
from foldopt.status import Status

__all__ = ["Agreement", "Checks", "agreement", "check", "moving_share"]

Engine = Literal["scip", "gurobi"]
EPSILONS = (0.0, 0.5, 1.0, 2.0, 4.0)
# Branch and bound slows down as ε grows: from here on fewer programs are compared.
_SLOW, _FEW = 2.5, 2
_SMALL = 1e-6
_MOVES = 1e-9


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A global solver against the study's own, on the same programs.

    Attributes
    ----------
    engine, epsilon
        Who, and on which program: ε = 0 is the bilinear one, for which the study has an exact
        solution, else a local search.
    programs, proved
        How many, and of how many the solver proved its optimum.
    worse
        In how many the study's objective is worse than the solver's by more than 1e-6, proved or
        not.
    value, distance
        The largest difference of the objectives, and of an entry of the solutions, where the
        solver has proved its optimum; NaN if nowhere.
    seconds
        The solver's wall-clock time for a program.
    """

    engine: str
    epsilon: float
    programs: int
    proved: int
    worse: int
    value: float
    distance: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Checks:
    """See the fields of :class:`Agreement` and the functions below.

    Attributes
    ----------
    agreements
        One for each global solver and ε.
    shares
        For each ε, the share of true costs at which the decision moves with them.
    unsmoothed_share
        The same for ε = 0 over the training examples of its training run.
    unsmoothed_change
        The largest change of a weight in one epoch of training with ε = 0.
    epoch_samples, epoch_gap, epoch_change
        One epoch on so many examples, by SCIP's answers and by the local search's: the largest
        difference of a weight after it, and the largest change of one in it.
    """

    agreements: list[Agreement]
    shares: dict[float, float]
    unsmoothed_share: float
    unsmoothed_change: float
    epoch_samples: int
    epoch_gap: float
    epoch_change: float


def engines() -> list[Engine]:
    """The global solvers that are installed."""
    packages: dict[Engine, str] = {"scip": "pyscipopt", "gurobi": "gurobipy"}
    return [name for name, package in packages.items() if importlib.util.find_spec(package)]


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else math.nan


def agreement(
    engine: Engine, objective: Bilinear, costs: Tensor, epsilon: float, time_limit: float = 20.0
) -> Agreement:
    """Compare a global solver with the study's own.

    Parameters
    ----------
    engine
        ``"scip"`` or ``"gurobi"``.
    objective, costs, epsilon
        As for :func:`~foldopt.experiments.bilinear.program.search`.
    time_limit
        Seconds for a program; one without an answer by then counts as not proved.

    Returns
    -------
    Agreement
        What came out.
    """
    began = time.perf_counter()
    found = solve_globally(
        objective, costs, epsilon, GlobalQP(engine, gap=GAP, atol=GAP, time_limit=time_limit)
    )
    seconds = time.perf_counter() - began
    proved = found.status == Status.CONVERGED
    own = search(objective, costs, epsilon).x
    excess = objective.smoothed(own, costs, epsilon) - objective.smoothed(found.x, costs, epsilon)
    distance = (own - found.x).abs().amax(-1)
    return Agreement(
        engine,
        epsilon,
        len(costs),
        int(proved.sum()),
        int((excess > _SMALL).sum()),
        _largest(excess[proved].abs()),
        _largest(distance[proved]),
        seconds / len(costs),
    )


def moving_share(objective: Bilinear, costs: Tensor, epsilon: float) -> float:
    """The share of samples at which a random change of the decision has a gradient in the costs.

    Parameters
    ----------
    objective, costs, epsilon
        As for :func:`~foldopt.experiments.bilinear.program.search`.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> f = Bilinear(torch.zeros(3, 3).double())
    >>> costs = torch.tensor([[0.2, 0.0, -9.0, 0.3, 0.0, 0.0]]).double()
    >>> moving_share(f, costs, 1.0), moving_share(f, costs, 0.0)
    (1.0, 0.0)
    """
    own = costs.detach().clone().requires_grad_()
    random = torch.Generator().manual_seed(0)
    cotangent = torch.randn(costs.shape, generator=random, dtype=costs.dtype)
    (gradient,) = torch.autograd.grad(folded_program(objective, epsilon)(own), own, cotangent)
    return float((gradient.abs().amax(-1) > _MOVES).double().mean())


def check(
    objective: Bilinear,
    parts: tuple[Examples, Examples, Examples],
    model: nn.Module,
    fresh: Callable[[], nn.Module],
    settings: Training,
    *,
    epsilons: Sequence[float],
    checked: int,
    global_epoch: int,
    time_limit: float,
    say: Callable[[str], None],
) -> Checks:
    """All checks, on one problem.

    Parameters
    ----------
    objective, parts
        The problem.
    model
        A trained one: half of the programs compared are at its predictions, half at true costs.
    fresh
        Makes the model with its initial weights.
    settings
        How it is trained; one epoch here.
    epsilons
        Of the layers, the first being that of the model.
    checked, global_epoch, time_limit
        See :class:`~foldopt.experiments.bilinear.training.Config`.
    say
        Called with a word on what is being done.

    Returns
    -------
    Checks
        What came out.
    """
    training, _, test = parts
    half = (checked + 1) // 2
    with torch.no_grad():
        costs = torch.cat([model(test.features)[:half], test.truth[-half:]])[:checked]
    agreements = []
    for engine in engines():
        for smoothing in (0.0, *epsilons):
            say(f"checking optima with {engine}, ε = {smoothing:g}")
            some = costs[:: max(1, len(costs) // _FEW)][:_FEW] if smoothing > _SLOW else costs
            agreements.append(agreement(engine, objective, some, smoothing, time_limit))
    say("counting nonzero derivatives")
    shares = {value: moving_share(objective, test.truth, value) for value in EPSILONS}
    once = dataclasses.replace(settings, epochs=1)

    def train(part: Examples, solver: Forward, smoothing: float) -> tuple[Tensor, Tensor]:
        new = fresh()
        before = _weights(new)
        layer = folded_program(objective, smoothing, solver)
        end_to_end(new, layer, objective, part, lambda: 0.0, once)
        return before, _weights(new)

    say("training without ε")
    before, after = train(training, "ascent", 0.0)
    unsmoothed_change = float((after - before).abs().max())
    with torch.no_grad():
        predicted = fresh()(training.features)
    few = training.take(torch.arange(min(global_epoch, len(training))))
    say(f"training on {len(few)} examples with SCIP in the layer")
    before, by_search = train(few, "ascent", epsilons[0])
    _, by_scip = train(few, "scip", epsilons[0])
    return Checks(
        agreements,
        shares,
        moving_share(objective, predicted, 0.0),
        unsmoothed_change,
        len(few),
        float((by_scip - by_search).abs().max()),
        float((by_search - before).abs().max()),
    )


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])
