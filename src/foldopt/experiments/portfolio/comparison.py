"""Short trainings around each engine, and the portfolios that need no training."""

from __future__ import annotations

from typing import Any

import torch

from foldopt.experiments.frame import Journal, certificates, compare_adjoints
from foldopt.experiments.portfolio.engines import engine_of
from foldopt.experiments.portfolio.layers import flat_step, folded_portfolio
from foldopt.experiments.portfolio.plan import FOLDED, Config, Spec
from foldopt.experiments.portfolio.training import (
    decide,
    examples_of,
    fit,
    loss_of,
    method_of,
    model_of,
    parts_of,
    relative_regret,
    risks,
)
from foldopt.nn._portfolio.interior_points import solve

__all__ = ["benchmarks", "compare_engine"]


def compare_engine(config: Config, spec: Spec, journal: Journal) -> dict[str, Any]:
    """A short training by f-SQP around one engine, and what its layer's adjoint costs.

    Parameters
    ----------
    config, spec, journal
        As for a job of the study; ``spec.method`` is the engine.

    Returns
    -------
    dict
        As :func:`train_one`, with the ``"decisions"`` on the first test data, from the predictions
        after training, and the ``"adjoints"``; ``{"missing": …}`` if the engine is not installed.
    """
    try:
        engine = engine_of(spec.method)
    except ImportError as error:
        return {"missing": str(error)}
    data = parts_of(config, spec.task, spec.seed)
    parts = tuple(map(examples_of, data))
    model = model_of(config, data[0], spec.seed)
    layer = folded_portfolio(engine, method_of(spec.task))
    with certificates(journal.certificates) as seen:
        history = fit(
            config,
            parts,
            model,
            loss_of(model, FOLDED, layer),
            config.engine_epochs,
            spec.seed,
            journal,
        )
    test = parts[2].take(torch.arange(min(config.batch_size, len(parts[2]))))
    with torch.no_grad():
        c = model(test.features)
    state = solve(c, *test.known).x
    # Of the loss: −r on x, and nothing on the multipliers.
    rest = torch.zeros(len(c), state.inequality.shape[-1] + 1, dtype=c.dtype)
    adjoints = compare_adjoints(
        flat_step(layer),
        torch.cat([*state], -1),
        c.requires_grad_(),
        *test.known,
        cotangent=torch.cat([-test.truth, rest], -1),
    )
    return {
        "regret": relative_regret(
            decide(model(parts[2].features).detach(), *parts[2].known), parts[2]
        ),
        "decisions": state.x,
        "validation": history.score,
        "seconds": history.seconds,
        "steps": config.engine_epochs * -(-len(parts[0]) // config.batch_size),
        "certificates": seen.summary(),
        "adjoints": adjoints,
    }


def benchmarks(config: Config, spec: Spec) -> dict[str, Any]:
    """What needs no training: the trailing mean as a prediction, and equal weights.

    Parameters
    ----------
    config, spec
        As for a job of the study.

    Returns
    -------
    dict
        For each its ``"regret"`` and ``"return"``; the days' shares with a binding risk.
    """
    data = parts_of(config, spec.task, spec.seed)
    mean = data[0].returns.mean(0).expand_as(data[2].returns)  # of training, asset by asset
    test = examples_of(data[2])
    equal = torch.full_like(test.optimal, 1 / test.optimal.shape[-1])
    portfolios = {"mean of training": decide(mean, *test.known), "equal weights": equal}
    found: dict[str, Any] = {
        name: {"regret": relative_regret(x, test), "return": float((x * test.truth).sum(-1).mean())}
        for name, x in portfolios.items()
    }
    binds = (risks(test.optimal, test) > 1 - 1e-9).double().mean()
    return {"portfolios": found, "risk_binds": float(binds), "days": [len(part) for part in data]}
