"""What the bilinear study rests on: global optima by other solvers, and the need for ε."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import torch
from torch import Tensor

from foldopt.experiments.bilinear.layer import folded_program, initial_model
from foldopt.experiments.bilinear.plan import TWO_STAGE, Config, Engine, Model, engines, models
from foldopt.experiments.bilinear.program import GAP, Bilinear, search, solve_globally
from foldopt.experiments.bilinear.training import Problem, model_seed, train, weights
from foldopt.experiments.frame import Journal
from foldopt.solvers.global_qp import GlobalQP
from foldopt.status import Status

__all__ = ["Agreement", "agreement", "check", "moving_share"]

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


def check(config: Config, journal: Journal) -> dict[str, Any]:
    """All checks, on the first Q.

    Parameters
    ----------
    config
        The settings.
    journal
        Of the job.

    Returns
    -------
    dict
        ``"agreements"``: the fields of each :class:`Agreement`, half of its programs being at a
        two-stage model's predictions and half at true costs; ``"shares"``: by ε, the share of
        true costs at which the decision moves with them; ``"unsmoothed"``: the same for ε = 0 over
        the training examples, at an untrained network's predictions; ``"epoch"``: after one epoch
        on so many ``"examples"`` by SCIP's answers and by the local search's, the largest
        difference of a weight (``"gap"``), and the largest change of one (``"change"``).
    """
    seed = model_seed(config.seed, 0)
    problem = Problem.of(config, config.seed)
    network = initial_model(config.hidden, config.n, seed)
    with torch.no_grad():
        untrained = network(problem.training.features)
    two_stage = next(model for model in models(config) if model.name == TWO_STAGE)
    train(config, two_stage, problem, network, seed)
    half, test = (config.checked + 1) // 2, problem.test
    with torch.no_grad():
        costs = torch.cat([network(test.features)[:half], test.truth[-half:]])[: config.checked]
    agreements = []
    for engine in engines():
        for epsilon in (0.0, *config.epsilons):
            few = costs[:: max(1, len(costs) // _FEW)][:_FEW] if epsilon > _SLOW else costs
            found = agreement(engine, problem.objective, few, epsilon, config.time_limit)
            agreements.append(dataclasses.asdict(found))
            journal.epoch(checked=f"{engine}, ε = {epsilon:g}")
    shares = {
        f"{value:g}": moving_share(problem.objective, test.truth, value) for value in EPSILONS
    }
    unsmoothed = moving_share(problem.objective, untrained, 0.0)
    journal.epoch(checked="derivatives")
    few = torch.arange(min(config.global_epoch, len(problem.training)))
    part = dataclasses.replace(problem, training=problem.training.take(few))
    once = Model("once", 1, config.learning_rate, config.epsilons[0])
    trained, moved = {}, {}
    for solver in ("ascent", "scip"):
        new = initial_model(config.hidden, config.n, seed)
        same = dataclasses.replace(config, solver=solver)
        moved[solver] = train(same, once, part, new, seed)["moved"]
        trained[solver] = weights(new)
        journal.epoch(checked=f"an epoch by {solver}")
    gap = float((trained["scip"] - trained["ascent"]).abs().max())
    return {
        "agreements": agreements,
        "shares": shares,
        "unsmoothed": unsmoothed,
        "epoch": {"examples": len(few), "gap": gap, "change": moved["ascent"]},
    }
