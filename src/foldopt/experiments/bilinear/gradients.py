"""What a loss tells a network: how many costs its gradient reaches, and how much of it is noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt.experiments.bilinear.layer import Predictor, folded_program, initial_model
from foldopt.experiments.bilinear.plan import (
    LONGER,
    NEARLY_CONCAVE,
    Config,
    folded_name,
    models,
)
from foldopt.experiments.bilinear.program import Bilinear, search
from foldopt.experiments.bilinear.training import Problem, model_seed, train
from foldopt.experiments.frame import Journal, compare_adjoints
from foldopt.learning import Examples

__all__ = ["ERROR", "Signal", "compare_losses", "measure", "measure_adjoints"]

ERROR = "squared error"
_MOVES = 1e-9

Loss = Callable[[Tensor, Examples], Tensor]
"""``loss(predicted costs, examples)``: one value for each example."""


@dataclasses.dataclass(frozen=True)
class Signal:
    r"""The gradient of a loss, at given weights.

    Attributes
    ----------
    samples
        The share of examples whose gradient in their predicted costs is not zero.
    entries
        The share of all predicted costs whose derivative is not zero.
    towards_truth
        The mean cosine, over the examples with a gradient, between the step that lowers the loss
        and the way from the predicted costs to the true ones. Constants added to all of c, or to
        all of d, change no decision and are left out of both.
    signal_to_noise
        :math:`\|\bar g\|^2 / \operatorname{tr} S` for the gradients of batches in the network's
        weights, of mean :math:`\bar g` and covariance S, and without bias: the mean square of a
        mean of k batches exceeds :math:`\|E g\|^2` by :math:`\operatorname{tr} S / k`.
    """

    samples: float
    entries: float
    towards_truth: float
    signal_to_noise: float


def measure(network: Predictor, loss: Loss, examples: Examples, batch_size: int) -> Signal:
    """Take the gradients of a loss, batch by batch, without a step.

    Parameters
    ----------
    network
        At its weights.
    loss
        One value for each example.
    examples
        At least two batches of them; what is left over after whole batches is not used.
    batch_size
        Examples a batch.

    Returns
    -------
    Signal
        What was seen.

    Raises
    ------
    ValueError
        If there are fewer than two batches.
    """
    whole = len(examples) // batch_size
    if whole < 2:
        raise ValueError(
            f"measure: {len(examples)} examples make {whole} batches of {batch_size}; the noise of "
            "a batch needs two at least"
        )
    own = list(network.parameters())
    by_weight, by_cost, away = [], [], []
    for index in torch.arange(whole * batch_size).split(batch_size):
        batch = examples.take(index)
        costs = network(batch.features)
        (in_costs,) = torch.autograd.grad(loss(costs, batch).sum(), costs, retain_graph=True)
        in_weights = torch.autograd.grad(costs, own, in_costs / batch_size)
        by_cost.append(in_costs)
        by_weight.append(torch.cat([part.reshape(-1) for part in in_weights]))
        away.append((costs - batch.truth).detach())
    reaches = torch.cat(by_cost).abs() > _MOVES
    return Signal(
        float(reaches.any(-1).double().mean()),
        float(reaches.double().mean()),
        _cosine(torch.cat(by_cost), torch.cat(away), reaches.any(-1)),
        _signal_to_noise(torch.stack(by_weight)),
    )


def _cosine(gradient: Tensor, away: Tensor, reached: Tensor) -> float:
    def centred(vectors: Tensor) -> Tensor:
        halves = vectors[reached].unflatten(-1, (2, -1))
        return (halves - halves.mean(-1, keepdim=True)).flatten(-2)

    return float(torch.cosine_similarity(centred(gradient), centred(away), -1).mean())


def _signal_to_noise(gradients: Tensor) -> float:
    mean = gradients.mean(0)
    noise = float((gradients - mean).square().sum()) / (len(gradients) - 1)
    signal = float(mean.square().sum()) - noise / len(gradients)
    return signal / noise if noise > _MOVES**2 else 0.0


def regret_loss(objective: Bilinear, epsilon: float) -> Loss:
    """The regret of the smoothed program through its layer, less what is constant."""
    layer = folded_program(objective, epsilon)
    return lambda costs, batch: objective.smoothed(layer(costs), batch.truth, epsilon)


def compare_losses(config: Config, journal: Journal) -> dict[str, Any]:
    """The gradients of all losses on the first Q: at random weights, and after a long training.

    Parameters
    ----------
    config
        The settings.
    journal
        Of the job.

    Returns
    -------
    dict
        By the weights, and by the loss: the fields of :class:`Signal`.
    """
    problem, seed = Problem.of(config, config.seed), model_seed(config.seed, 0)
    epsilons = sorted({0.0, *config.epsilons, NEARLY_CONCAVE})
    losses: dict[str, Loss] = {ERROR: lambda costs, batch: (costs - batch.truth).square().mean(-1)}
    losses |= {folded_name(e): regret_loss(problem.objective, e) for e in epsilons}
    found = {}
    network = initial_model(config.hidden, config.n, seed)
    for at in ("initial weights", LONGER):
        if at == LONGER:
            model = next(model for model in models(config) if model.name == LONGER)
            train(config, model, problem, network, seed)
        found[at] = {
            name: dataclasses.asdict(measure(network, loss, problem.training, config.batch_size))
            for name, loss in losses.items()
        }
        journal.epoch(at=at)
    return found


def measure_adjoints(config: Config, journal: Journal) -> dict[str, Any]:
    """ρ(Φ) and the adjoint solvers, at the test predictions of each folded model of the first Q.

    Parameters
    ----------
    config
        The settings.
    journal
        Of the job.

    Returns
    -------
    dict
        By the model's name, what :func:`~foldopt.experiments.frame.compare_adjoints` gave, and
        ``"left_out"``: test samples where f-PGDb has no derivative. A model of which no test
        decision moves is not there.
    """
    problem, seed = Problem.of(config, config.seed), model_seed(config.seed, 0)
    found = {}
    for model in models(config):
        if model.after is not None or model.epsilon not in config.epsilons or not model.smooth_loss:
            continue
        network = initial_model(config.hidden, config.n, seed)
        train(config, model, problem, network, seed)
        with torch.no_grad():
            costs = network(problem.test.features)
        measured = _adjoints(problem, costs, model.epsilon)
        if measured is not None:
            found[model.name] = measured
        journal.epoch(model=model.name)
    return found


def _adjoints(problem: Problem, costs: Tensor, epsilon: float) -> dict[str, Any] | None:
    """None: no decision moves with the costs, so that there is no gradient to compare."""
    objective, truth = problem.objective, problem.test.truth
    layer = folded_program(objective, epsilon)
    own = costs.clone().requires_grad_()
    objective.smoothed(layer(own), truth, epsilon).sum().backward()
    usable = ~layer.last_failed
    assert own.grad is not None
    if not bool((own.grad[usable].abs() > _MOVES).any()):
        return None
    costs, truth = costs[usable], truth[usable]
    z = search(objective, costs, epsilon).x
    with torch.enable_grad():
        at = z.clone().requires_grad_()
        (cotangent,) = torch.autograd.grad(objective.smoothed(at, truth, epsilon).sum(), at)
    measured = compare_adjoints(layer.layer.step, z, costs, cotangent=cotangent)
    return {**measured, "left_out": int((~usable).sum())}
