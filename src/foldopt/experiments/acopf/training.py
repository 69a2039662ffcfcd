"""The predictor of costs, the two ways to train it, and its score."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from foldopt.experiments.acopf.data import cost, decided, layer_of, parts_of
from foldopt.experiments.acopf.plan import FOLDED, LINEAR, TUNED, TWO_STAGE, Config, Spec
from foldopt.experiments.frame import Journal, certificates
from foldopt.learning import Epoch, Examples, Training, fit
from foldopt.nn.acopf import ACOPF, Dispatch

__all__ = ["Predictor", "loss_of", "model_of", "relative_regret", "train_one", "violations"]


class Predictor(nn.Module):
    """From two temperatures to factors of the grid's costs, and so to costs.

    Parameters
    ----------
    own
        The grid's coefficients, ``(2g,)``.
    hidden
        Width of four hidden layers with ReLU behind them; None: there is none.
    """

    own: Tensor

    def __init__(self, own: Tensor, hidden: int | None) -> None:
        super().__init__()
        widths = [2] if hidden is None else [2, *[hidden] * 4]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], len(own)))
        self.register_buffer("own", own)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, 2)`` to ``(B, 2g)``, all above 0: costs that are not convex have no meaning."""
        # softplus(x + s) is 1 at x = 0.
        shift = torch.expm1(torch.ones((), dtype=features.dtype)).log()
        return self.own * nn.functional.softplus(self.layers(features) + shift)


def model_of(config: Config, layer: ACOPF, spec: Spec) -> Predictor:
    """The same initial weights for both methods."""
    own = torch.cat([torch.tensor(layer.grid.quadratic), torch.tensor(layer.grid.linear)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        hidden = None if spec.predictor == LINEAR else config.hidden
        return Predictor(own, hidden).double()


def relative_regret(pg: Tensor, examples: Examples) -> float:
    """Regret in percent of the least cost, both summed over the samples that were solved."""
    best = cost(examples.optimal, examples.truth)
    lost = cost(pg, examples.truth) - best
    good = torch.isfinite(lost)
    return float(100 * lost[good].sum() / best[good].sum())


def loss_of(model: Predictor, layer: ACOPF, method: str, batch: Examples) -> Tensor:
    """Two-stage: squared error of the factors. Folded: regret relative to the least cost."""
    prediction = model(batch.features)
    if method != FOLDED:
        known = model.own > 0
        return ((prediction - batch.truth)[:, known] / model.own[known]).square().mean()
    best = cost(batch.optimal, batch.truth)
    found = cost(decided(layer, prediction, batch.known).pg, batch.truth)
    # Samples that were not solved have no gradient, and no loss: NaN would end the training.
    return torch.where(torch.isfinite(found), found / best - 1, 0).mean()


def violations(layer: ACOPF, found: Dispatch, known: tuple[Tensor, ...]) -> tuple[float, float]:
    """The largest violation of a balance, and of any limit, per unit, over solved samples."""
    base, grid, engine = layer.grid.base, layer.grid, layer.engine
    pooled = torch.zeros(len(found.qg), len(grid.hosts), dtype=found.qg.dtype)
    pooled = pooled.index_add(-1, torch.from_numpy(grid.shares[0]), found.qg)
    z = torch.cat([found.va, found.vm, found.pg / base, pooled / base], -1)
    good = torch.isfinite(z).all(-1)
    z, known = z[good], tuple(part[good] for part in known)
    functions = engine.model.program
    equality = functions.equality(z, *known) if functions.equality else z[:, :0]
    inequality = functions.inequality(z) if functions.inequality else z[:, :0]
    lower, upper = torch.from_numpy(layer.grid.bounds())
    over = torch.cat([torch.as_tensor(inequality), lower - z, z - upper], -1)
    return float(torch.as_tensor(equality).abs().max()), max(0.0, float(over.max()))


def train_one(config: Config, spec: Spec, journal: Journal) -> dict[str, Any]:
    """Train by one method, and score the decisions on the test data.

    Returns
    -------
    dict
        ``"untrained"`` and ``"regret"``, in percent of the least cost; ``"validation"`` by epoch;
        ``"error"``, the root mean square error of the predicted factors; ``"equality"`` and
        ``"inequality"``, the worst violations of the test decisions; ``"failed"`` of these;
        ``"seconds"``, ``"certificates"``, and ``"shown"``: see :func:`_shown`.
    """
    layer = layer_of(config)
    task = parts_of(config, layer, spec.seed)
    model = model_of(config, layer, spec)

    def decide(part: Examples) -> Dispatch:
        with torch.no_grad():
            return decided(layer, model(part.features), part.known)

    done = journal.epochs  # of a run that is resumed

    def on_epoch(epoch: Epoch) -> None:
        nonlocal done
        done = epoch.index + 1
        journal.epoch(loss=epoch.loss, regret=epoch.score)

    def loss(batch: Examples) -> Tensor:
        method = spec.method
        if method == TUNED:
            method = TWO_STAGE if done < config.two_stage else FOLDED
        return loss_of(model, layer, method, batch)

    before = decide(task.test)
    settings = Training(config.epochs, config.batch_size, config.learning_rate, spec.seed)
    with certificates(journal.certificates) as seen:
        history = fit(
            model,
            loss,
            task.train,
            lambda: relative_regret(decide(task.validation).pg, task.validation),
            settings,
            on_epoch=on_epoch,
            checkpoint=journal.checkpoint,
        )
    after = decide(task.test)
    equality, inequality = violations(layer, after, task.test.known)
    with torch.no_grad():
        error = model(task.test.features) / model.own - task.test.truth / model.own
    return {
        "untrained": relative_regret(before.pg, task.test),
        "regret": relative_regret(after.pg, task.test),
        "validation": history.score,
        "best": history.best,
        "error": float(error[torch.isfinite(error)].square().mean().sqrt()),
        "equality": equality,
        "inequality": inequality,
        "failed": int((~torch.isfinite(after.pg).all(-1)).sum()),
        "refused": task.refused,
        "seconds": history.seconds,
        "certificates": seen.summary(),
        "shown": _shown(layer, before, after, task.test),
    }


def _shown(layer: ACOPF, before: Dispatch, after: Dispatch, test: Examples) -> dict[str, Any]:
    """Dispatches and their costs of the test sample whose cost falls by the median in training."""
    costs = [cost(found.pg, test.truth) for found in (before, after)]
    fall = torch.nan_to_num((costs[0] - costs[1]) / cost(test.optimal, test.truth))
    i = int(fall.argsort()[(len(fall) - 1) // 2])
    with torch.no_grad():
        best = decided(layer, test.truth[i], tuple(part[i] for part in test.known))
    own = [Dispatch(*(part[i] for part in found)) for found in (before, after)]
    shown: dict[str, Any] = {
        name: {
            "cost": float(cost(found.pg, test.truth[i])),
            **{key: part.tolist() for key, part in found._asdict().items()},
        }
        for name, found in zip(("before", "after", "best"), (*own, best), strict=True)
    }
    return {**shown, "pd": test.known[0][i].tolist()}
