"""The tables of the bilinear study."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldopt.experiments.bilinear.outcome import Outcome
from foldopt.experiments.bilinear.plan import (
    MORE_ERROR,
    TWO_STAGE,
    folded_name,
    models,
    more_regret,
)
from foldopt.experiments.frame import Table
from foldopt.experiments.statistics import mean_interval

__all__ = [
    "agreement_table",
    "comparison_table",
    "problems_table",
    "references",
    "shares_table",
    "signals_table",
    "trainings_table",
]


def references(outcome: Outcome) -> list[tuple[str, str]]:
    """Each folded model, and what it is compared with, which comes first."""
    return [
        (TWO_STAGE if model.after is None else MORE_ERROR, model.name)
        for model in models(outcome.config)
        if model.epsilon is not None
    ]


def problems_table(outcome: Outcome) -> Table:
    """Test regret by Q of what the claim is about, and of what goes on from better weights."""
    plain = folded_name(outcome.config.epsilons[0])
    tuned = more_regret(outcome.config.more_epsilons[0])
    names = [TWO_STAGE, *map(folded_name, outcome.config.epsilons), MORE_ERROR, tuned]
    pairs = [(TWO_STAGE, plain), (MORE_ERROR, tuned)]
    ignorant = outcome.untrained("mean costs").mean(1)
    rows = []
    for place, seed in enumerate(outcome.seeds):
        means = [mean_interval(outcome.regret(name)[place]).text(3) for name in names]
        saved = [mean_interval(outcome.saved(*pair)[place]).text(3) for pair in pairs]
        rows.append((f"{seed}", *means, f"{ignorant[place]:.3f}", *saved))
    if len(rows) > 1:
        means = [outcome.overall(name).text(3) for name in names]
        saved = [outcome.saved_overall(*pair).text(3) for pair in pairs]
        rows.append(("all", *means, mean_interval(ignorant).text(3), *saved))
    return Table(
        f"Mean test regret by Q (± 95 % over {outcome.config.seeds} repetitions; all: over Q)",
        ("Q", *names, "mean costs", f"saved by {plain}", f"saved by {tuned}"),
        tuple(rows),
        f"Saved: over {TWO_STAGE}, and over {MORE_ERROR}; paired, on the same examples, initial "
        "weights and batches. Mean costs: every cost is predicted by its mean.",
    )


def comparison_table(outcome: Outcome) -> Table:
    """Each folded model against the one that learned from the error as long, from equal weights."""
    rows = []
    for first, name in references(outcome):
        lower, wins, losses = outcome.counts(first, name)
        repeated = outcome.regret(name).shape[1] > 1
        rows.append(
            (
                name,
                first,
                outcome.overall(name).text(3),
                outcome.saved_overall(first, name).text(3),
                f"{lower} of {len(outcome.seeds)}",
                f"{wins}, {losses}" if repeated else "–",
            )
        )
    return Table(
        f"Folded models over {len(outcome.seeds)} Q, each against its reference (± 95 % over Q)",
        ("model", "against", "regret", "saved", "lower on Q", "clearly lower, higher"),
        tuple(rows),
        "Clearly: beyond the 95 % interval over the repetitions of one Q. ε = 0, the bilinear loss "
        "and a large ε are ablations, trained once on each Q.",
    )


def trainings_table(outcome: Outcome) -> Table:
    """How each model was trained, and what it came to on each part of the data."""
    rows = [
        (
            model.name,
            f"{model.epochs} at {model.learning_rate:g}",
            f"{outcome.measure(model.name, 'epoch').mean():.1f}",
            *(
                f"{outcome.measure(model.name, part).mean():.3f}"
                for part in ("training", "validation", "test")
            ),
            f"{outcome.measure(model.name, 'error').mean():.2f}",
        )
        for model in models(outcome.config)
    ]
    return Table(
        "Trainings: means over all Q and repetitions",
        ("model", "epochs, rate", "epoch kept", "training", "validation", "test", "test error"),
        tuple(rows),
        "Training, validation, test: mean regret. Test error: mean squared error of the costs, "
        "whose variance is 1. Validation chose the epoch, and looks better than it is.",
    )


def agreement_table(agreements: list[dict[str, Any]]) -> Table:
    """Global solvers against the study's own solutions."""
    names = {"scip": "SCIP", "gurobi": "Gurobi"}

    def number(value: float | None) -> str:
        return "–" if value is None or np.isnan(value) else f"{value:.0e}"

    rows = tuple(
        (
            f"{names[found['engine']]}, ε = {found['epsilon']:g}",
            "enumeration, exact" if found["epsilon"] == 0 else "search, local",
            f"{found['proved']} of {found['programs']}",
            f"{found['worse']}",
            number(found["value"]),
            number(found["distance"]),
            f"{found['seconds']:.2f}",
        )
        for found in agreements
    )
    return Table(
        "Global optima: branch and bound against the study's own solver",
        (
            "solver",
            "own",
            "optima proved",
            "own worse",
            "objective gap",
            "entry gap",
            "seconds each",
        ),
        rows,
        "Own worse: by more than 1e-6, proved or not. Gaps: the largest, where the optimum was "
        "proved; proofs are to 1e-5. Seconds of a batch that shares the machine.",
    )


def shares_table(shares: dict[str, float]) -> Table:
    """How often decisions move with the costs."""
    return Table(
        "Test examples at whose true costs the decision has a nonzero derivative",
        ("", *(f"ε = {epsilon}" for epsilon in shares)),
        (("share", *(f"{100 * share:.0f} %" for share in shares.values())),),
    )


def signals_table(signals: dict[str, dict[str, dict[str, float]]]) -> Table:
    """What the gradients of the losses tell."""
    rows = []
    for at, by_loss in signals.items():
        for loss, found in by_loss.items():
            seen = found["samples"] > 0
            rows.append(
                (
                    f"{at}: {loss}",
                    f"{100 * found['samples']:.0f} %",
                    f"{100 * found['entries']:.0f} %",
                    f"{found['towards_truth']:.2f}" if seen else "–",
                    f"{found['signal_to_noise']:.3f}" if seen else "–",
                )
            )
    return Table(
        "What a gradient tells: first Q, training examples",
        ("at weights: loss", "samples reached", "costs reached", "towards truth", "signal / noise"),
        tuple(rows),
        "Reached: with a nonzero derivative. Towards truth: mean cosine between the step that "
        "lowers the loss and the way to the true costs, without constants that change no "
        "decision. Signal / noise: squared norm of the mean gradient in the weights over the "
        "variance of a batch's, without bias: 0 or less is no signal.",
    )
