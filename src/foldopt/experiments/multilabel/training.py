"""One training: images to logits to the layer to −log x_y, by SGD.

All methods get the same weights, the same batches in the same order and the same x; only the
derivative of x differs. Nothing is chosen by validation, so that none is needed: the number of
epochs is fixed, and curves are shown as they are.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from foldopt.experiments.frame import Journal, certificates, merge_certificates
from foldopt.experiments.multilabel.cvxpy_layer import CVXPYLAYERS, CvxpyTopK, missing
from foldopt.experiments.multilabel.data import CLASSES, Data, Part, Source, load
from foldopt.experiments.multilabel.disturbed import disturbed
from foldopt.experiments.multilabel.layer import Layer, Logits, layer_of, scaled
from foldopt.experiments.multilabel.networks import DEFAULT, Network, network
from foldopt.experiments.multilabel.plan import METHODS, Config, training_key

__all__ = ["STEPS", "accuracies", "log_loss", "logits_file", "train"]

STEPS = 200  # of so many first gradient steps the loss is kept
_EVALUATED = 10_000  # at most so many training examples are scored after an epoch
_CHUNK = 500


def log_loss(x: Tensor, label: Tensor) -> Tensor:
    """−log x_y of each sample: 0 where y is selected for certain.

    Parameters
    ----------
    x
        The layer's output, shape ``(B, n)``.
    label
        y, shape ``(B,)``.

    Returns
    -------
    Tensor
        Shape ``(B,)``.

    Examples
    --------
    >>> log_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([1]))
    tensor([0.6931])
    """
    return -x.gather(-1, label.unsqueeze(-1)).squeeze(-1).log()


def train(
    config: Config, logits: Logits | str, method: str, seed: int, journal: Journal
) -> dict[str, Any]:
    """Train one network, or go on where the last try was interrupted.

    Parameters
    ----------
    config
        The settings.
    logits
        What the layer takes, see :func:`~foldopt.experiments.multilabel.layer.scaled`.
    method
        A key of ``METHODS``.
    seed
        Of everything random.
    journal
        Where it is written down.

    Returns
    -------
    dict
        ``"curve"``: a dict of metrics for each epoch; ``"steps"``: the loss of the first gradient
        steps; ``"certificate"``; for cvxpylayers also ``"failed"`` batches and ``"distance"`` of
        its solutions from the common ones, and ``"diverged"``, the epoch in which its loss ceased
        to be finite, if it did: then its curve ends before. Or ``"missing"``: why it could not
        be run.

    Raises
    ------
    ValueError
        If training diverges.
    """
    if method == CVXPYLAYERS and (lacking := missing()) is not None:
        return {"missing": lacking}
    kind = cast(Logits, logits)
    folder = None if config.data_dir is None else Path(config.data_dir)
    data = load(cast(Source, config.data), folder, seed, config.train, config.test, config.noise)
    data = dataclasses.replace(
        data, train=data.train.to(config.device), test=data.test.to(config.device)
    )
    layer: Any = (
        CvxpyTopK(CLASSES, config.k)
        if method == CVXPYLAYERS
        else disturbed(config.k)
        if method == "disturbed"
        else layer_of(METHODS[method], config.k, on_failure="mask")
    )
    model = _model(config, data, seed)
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum,
        weight_decay=config.weight_decay, nesterov=config.momentum > 0,
    )  # fmt: skip
    state: dict[str, Any] = {"curve": [], "steps": [], "certificate": None, "failed": 0,
                             "distance": 0.0}  # fmt: skip
    if journal.checkpoint.exists():
        state = _resume(journal, model, optimizer)
    else:
        # Epoch 0: what the weights of the seed do.
        state["curve"].append(_evaluate(model, data, kind, config.k))
    for epoch in range(len(state["curve"]), config.trained_epochs(method) + 1):
        # A generator of each epoch's own: a run that is resumed goes on as it would have.
        order = torch.Generator().manual_seed(1000 * seed + epoch)
        with certificates() as seen:
            losses = _one_epoch(config, model, layer, kind, data.train, optimizer, order)
        if not all(map(math.isfinite, losses)):
            if method == CVXPYLAYERS:
                # The folds train from the same start: that it does not is a result of the study.
                state["diverged"] = epoch
                return state
            raise ValueError(
                f"multilabel: the loss of {training_key(kind, method, seed)} is not finite in "
                f"epoch {epoch}: training has diverged. Lower --learning-rate or --momentum."
            )
        metrics = {"loss": float(np.mean(losses)), **_evaluate(model, data, kind, config.k)}
        state["curve"].append(metrics)
        state["steps"] = (state["steps"] + losses)[:STEPS]
        before = [] if state["certificate"] is None else [state["certificate"]]
        state["certificate"] = merge_certificates([*before, seen.summary()])
        if isinstance(layer, CvxpyTopK):
            state["failed"] += layer.failed
            state["distance"] = max(state["distance"], layer.distance)
            layer.failed, layer.distance = 0, 0.0
        _save(journal, model, optimizer, state)
        journal.epoch(**metrics)
    _keep_logits(config, journal, model, data.test, training_key(kind, method, seed))
    return state


def _model(config: Config, data: Data, seed: int) -> nn.Module:
    name = DEFAULT[config.data] if config.network == "auto" else cast(Network, config.network)
    channels, height, width = data.train.batch(torch.arange(1)).shape[1:]
    return network(name, (channels, height, width), CLASSES, seed).to(config.device)


def _one_epoch(
    config: Config, model: nn.Module, layer: Layer, kind: Logits, part: Part,
    optimizer: torch.optim.Optimizer, order: torch.Generator,
) -> list[float]:  # fmt: skip
    """The loss of each gradient step."""
    model.train()
    losses = []
    for index in torch.randperm(len(part), generator=order).split(config.batch_size):
        index = index.to(part.members.device)
        optimizer.zero_grad()
        x = layer(scaled(model(part.batch(index)), kind))
        loss = log_loss(x, part.label[index]).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def _evaluate(model: nn.Module, data: Data, kind: Logits, k: int) -> dict[str, float]:
    """Top-1 and top-5 of both parts, training labels as they are given, with their noise."""
    model.eval()
    solve = layer_of("closed form", k)
    found: dict[str, float] = {}
    for name, part in (("train", data.train), ("test", data.test)):
        count = min(len(part), _EVALUATED) if name == "train" else len(part)
        every = torch.arange(count, device=part.members.device)
        c = torch.cat([scaled(model(part.batch(i)), kind) for i in every.split(_CHUNK)])
        one, five = accuracies(c, part.label[:count])
        found |= {f"{name} top-1": one, f"{name} top-5": five}
        if name == "test":
            x = solve(c)
            found["test loss"] = float(log_loss(x, part.label).mean())
            found |= {"active": float((x >= 1).sum(-1).double().mean()), "largest": float(x.max())}
    return found


def accuracies(c: Tensor, label: Tensor) -> tuple[float, float]:
    """Top-1 and top-5, ranked by the logits: x has the same order, but ties where it is 1.

    Parameters
    ----------
    c
        Shape ``(N, n)``.
    label
        Shape ``(N,)``.

    Returns
    -------
    tuple of float
        Shares of samples, from 0 to 1.

    Examples
    --------
    >>> accuracies(torch.tensor([[3.0, 2, 1, 0, -1, -2]]).repeat(2, 1), torch.tensor([0, 4]))
    (0.5, 1.0)
    """
    hit = c.topk(5, dim=-1).indices == label.unsqueeze(-1)
    return float(hit[:, 0].double().mean()), float(hit.any(-1).double().mean())


def logits_file(journal: Journal, key: str) -> Path:
    """Where a training leaves a batch of the trained network's logits."""
    return journal.folder / f"{key}.npz"


def _keep_logits(config: Config, journal: Journal, model: nn.Module, part: Part, key: str) -> None:
    index = torch.arange(min(config.batch_size, len(part)), device=part.members.device)
    with torch.no_grad():
        z = model(part.batch(index))
    np.savez(
        logits_file(journal, key), logits=z.cpu().numpy(), label=part.label[index].cpu().numpy()
    )


# -- between two tries ------------------------------------------------------------------------


def _save(
    journal: Journal, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    fresh = journal.checkpoint.with_suffix(".part")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}, fresh
    )
    os.replace(fresh, journal.checkpoint)


def _resume(journal: Journal, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    kept = torch.load(journal.checkpoint, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return kept["state"]
