"""What a run of the bilinear study says: a table, a verdict, a figure and a file of numbers."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from foldopt.experiments.bilinear.checks import Agreement, Checks
from foldopt.experiments.bilinear.program import Forward
from foldopt.experiments.bilinear.training import (
    TWO_STAGE,
    UNTRAINED,
    Config,
    Fold,
    Result,
    Trial,
    run,
)
from foldopt.experiments.statistics import Interval, mean_interval

__all__ = ["QUICK", "introduction", "show", "table", "verdict", "write_numbers"]

QUICK: dict[str, Any] = {
    "problems": 1,
    "samples": 750,
    "epochs": 3,
    "checked": 8,
    "global_epoch": 32,
    "time_limit": 4.0,
    "folds": (Fold(1.0), Fold(4.0)),
}
PACKAGES = ("fold-opt", "torch", "numpy", "pyscipopt", "gurobipy")
# A solver proves its objective to 1e-5, relative; z is then known to about the square root of that.
_SAME_VALUE, _SAME_POINT = 1e-4, 1e-2


def show(
    console: Console,
    quick: bool,
    seed: int,
    out: Path,
    solver: Forward = "ascent",
    problems: int | None = None,
) -> None:
    """Run the study, print what came out, and write it to a folder.

    Parameters
    ----------
    console
        Where to print.
    quick
        One Q and three epochs.
    seed
        Of the first Q.
    out
        The folder; it must be there.
    solver
        Who solves the layer's programs in training.
    problems
        How many Q; None: 15, or 1 if quick.
    """
    from foldopt.experiments.bilinear.figure import write_figure

    chosen: dict[str, Any] = {**(QUICK if quick else {}), "seed": seed, "solver": solver}
    if problems is not None:
        chosen["problems"] = problems
    config = Config(**chosen)
    console.print(introduction(config), highlight=False)
    with console.status("drawing") as status:
        result = run(config, status.update)
    console.print(table(result))
    for line in verdict(result):
        console.print(f"• {line}", markup=False, highlight=False)
    figure, numbers = out / "bilinear.png", out / "bilinear.json"
    write_figure(result, figure)
    write_numbers(result, numbers)
    for path in (figure, numbers):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{result.seconds:.0f} s.", highlight=False)


def introduction(config: Config) -> str:
    """What is decided, and how it is scored."""
    tenth = config.samples // 10
    solver = {"ascent": "a local search from all vertices", "scip": "SCIP", "gurobi": "Gurobi"}
    return (
        f"max cᵀx + xᵀQy + dᵀy, 0 ≤ x, y ≤ 1, Σx = 1, Σy = 2, n = {config.n} + {config.n}; "
        f"{config.problems} Q from seed {config.seed} on, each with {config.samples - 2 * tenth} "
        f"examples to train on, {tenth} to choose the epoch by, and {tenth} for the test. c and d "
        f"are predicted: {config.epochs} epochs, from the same weights for all models. A layer "
        "adds −(ε/2)(‖x‖² + ‖y‖²), is folded by f-PGDb, and solved in training by "
        f"{solver[config.solver]}. Test regret is that of the bilinear program itself, at an exact "
        "optimum for the predicted costs."
    )


def names(result: Result) -> list[str]:
    """The folded models."""
    return [fold.name for fold in result.config.folds]


def gain(trial: Trial, name: str) -> Interval:
    """By how much a folded model's regret is below that of the two-stage one, over test decisions.

    Both models decide on the same examples: the interval is that of paired differences.
    """
    saved = trial.tracks[TWO_STAGE].regret - trial.tracks[name].regret
    return mean_interval(saved.numpy())


def table(result: Result) -> Table:
    """Test regret for each Q and model, the lowest trained one in bold, and paired differences."""
    first = names(result)[0]
    count = len(result.trials[0].tracks[TWO_STAGE].regret)
    shown = Table(title=f"Mean test regret (± 95 % over {count} test decisions, paired)")
    shown.add_column("Q", justify="right")
    trained = [TWO_STAGE, *names(result)]
    for name in (*trained, UNTRAINED):
        shown.add_column(name.replace(", ", ",\n"), justify="right")
    shown.add_column(f"two-stage less\n{first}", justify="right", no_wrap=True)
    for trial in result.trials:
        means = {name: float(track.regret.mean()) for name, track in trial.tracks.items()}
        lowest = min(means[name] for name in trained)
        cells = [
            f"[bold]{mean:.3f}[/]" if mean == lowest and name in trained else f"{mean:.3f}"
            for name, mean in means.items()
        ]
        shown.add_row(str(trial.seed), *cells, gain(trial, first).text(3))
    if len(result.trials) > 1:
        shown.add_section()
        overall = [_over_problems(result, name).text(3) for name in (*trained, UNTRAINED)]
        saved = mean_interval([gain(trial, first).mean for trial in result.trials])
        shown.add_row("all", *overall, saved.text(3))
    return shown


def _over_problems(result: Result, name: str) -> Interval:
    return mean_interval([float(trial.tracks[name].regret.mean()) for trial in result.trials])


def verdict(result: Result) -> list[str]:
    """Who wins on how many Q, over all, and what the answers rest on: a sentence for each."""
    lines = [_duel(result, name) for name in names(result)]
    lines += [_masked(result, name) for name in names(result)]
    ignorant = [
        f"{name} {mean_interval(_below(result, UNTRAINED, name)).text(3)}"
        for name in (TWO_STAGE, *names(result))
    ]
    lines.append(f"Regret saved over predicting every cost by its mean: {'; '.join(ignorant)}.")
    return lines + [_agreement(found) for found in result.checks.agreements] + _need(result.checks)


def _below(result: Result, name: str, other: str) -> list[float]:
    return [
        float((trial.tracks[name].regret - trial.tracks[other].regret).mean())
        for trial in result.trials
    ]


def _duel(result: Result, name: str) -> str:
    gains = [gain(trial, name) for trial in result.trials]
    k = len(gains)
    lower = sum(saved.mean > 0 for saved in gains)
    wins = sum(saved.mean > 0 and saved.excludes_zero for saved in gains)
    losses = sum(saved.mean < 0 and saved.excludes_zero for saved in gains)
    text = (
        f"{name}: beats two-stage on {wins} of {k} Q, loses on {losses}, undecided on "
        f"{k - wins - losses} (95 % intervals over test decisions); its mean is the lower one on "
        f"{lower} of {k}."
    )
    overall = mean_interval([saved.mean for saved in gains])
    if math.isnan(overall.half):
        return f"{text} One Q shows nothing in general."
    ahead, behind = ("folded", "two-stage") if overall.mean > 0 else ("two-stage", "folded")
    size = Interval(abs(overall.mean), overall.half).text(3)
    judged = f"{ahead} wins" if overall.excludes_zero else "undecided"
    held = "holds" if lower == k else "does not hold"
    return (
        f"{text} Over all {k}, {ahead} is lower than {behind} by {size}: {judged}. The paper's "
        f"claim, a lower regret on every Q, {held} here."
    )


def _masked(result: Result, name: str) -> str:
    masked = sum(trial.tracks[name].masked for trial in result.trials)
    total = sum(trial.tracks[name].differentiated for trial in result.trials)
    return (
        f"{name}: {masked:,} of {total:,} training samples were not solved, or at dependent "
        "constraints where f-PGDb has no derivative, and were left out."
    )


def _agreement(found: Agreement) -> str:
    engine = {"scip": "SCIP", "gurobi": "Gurobi"}[found.engine]
    own = "the exact solution" if found.epsilon == 0 else "the local search"
    text = (
        f"{engine}, ε = {found.epsilon:g}: proved the optimum of {found.proved} of "
        f"{found.programs} programs, {found.seconds:.2f} s each"
    )
    if found.worse:
        return f"{text}; {own} is WORSE than {engine} on {found.worse} of them."
    if found.proved == 0:
        return f"{text}; within its time it found none better than {own} did."
    same = "same optima" if found.distance < _SAME_POINT else "same objectives"
    if found.value >= _SAME_VALUE:
        same = "DIFFERENT optima"
    return (
        f"{text}; {same} as {own}: largest difference {found.value:.0e} in the objective, "
        f"{found.distance:.0e} in an entry of the solution."
    )


def _need(checks: Checks) -> list[str]:
    shares = ", ".join(f"{100 * share:.0f} % at ε = {e:g}" for e, share in checks.shares.items())
    moves = checks.unsmoothed_share > 0 or checks.unsmoothed_change > 1e-6
    moved = "SOME signal" if moves else "no learning signal"
    return [
        f"Share of true costs at which the decision has a nonzero derivative: {shares}.",
        f"Without ε there is {moved}: {100 * checks.unsmoothed_share:.0f} % of the training "
        "samples have a nonzero gradient, and an epoch changes no weight by more than "
        f"{checks.unsmoothed_change:.0e} (with ε: by {checks.epoch_change:.0e}).",
        f"One epoch on {checks.epoch_samples} examples with SCIP in the layer, and with the local "
        f"search: the weights after it differ by {checks.epoch_gap:.0e} at most.",
    ]


def write_numbers(result: Result, path: Path) -> None:
    """Write config, versions, what came of each Q, the checks and the verdict as JSON."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Gurobi is used where it is installed
    numbers: dict[str, Any] = {
        "study": "bilinear",
        "config": dataclasses.asdict(result.config),
        "versions": versions,
        "trials": [_plain(trial, result) for trial in result.trials],
        "checks": dataclasses.asdict(result.checks),
        "verdict": verdict(result),
        "seconds": round(result.seconds, 1),
    }
    text = json.dumps(_finite(numbers), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(trial: Trial, result: Result) -> dict[str, Any]:
    models = {}
    for name, track in trial.tracks.items():
        interval = mean_interval(track.regret.numpy())
        models[name] = {"regret": interval.mean, "half_width_95": interval.half}
        if track.history is not None:
            models[name] |= {
                "epoch": track.history.best + 1,
                "training_loss": list(track.history.loss),
                "validation_regret": list(track.history.score),
                "seconds": round(track.history.seconds, 2),
            }
        if track.differentiated:
            models[name] |= {"left_out": track.masked, "differentiated": track.differentiated}
    saved = {name: gain(trial, name)._asdict() for name in names(result)}
    return {"seed": trial.seed, "models": models, "saved_over_two_stage": saved}


def _finite(value: Any) -> Any:
    """JSON has no NaN, and only texts as keys."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
