"""What a run of the portfolio study says: a table, a verdict, a figure and a file of numbers."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from foldopt.experiments.market import Market, split
from foldopt.experiments.markowitz.training import FOLDED, TWO_STAGE, Config, Result, Track
from foldopt.experiments.statistics import Interval, annual_sharpe, mean_interval

__all__ = ["Row", "introduction", "summarise", "table", "verdict", "write_numbers"]

TRADING_DAYS = 252
PACKAGES = ("fold-opt", "torch", "numpy", "qpsolvers", "piqp", "skfolio")


@dataclasses.dataclass(frozen=True)
class Row:
    """One strategy on the test decisions; the intervals are over seeds.

    Attributes
    ----------
    name
        Of the strategy.
    regret
        Mean regret of a decision, percent of wealth.
    sharpe
        Realised annual Sharpe ratio.
    growth, volatility
        Mean return and deviation of a year, percent.
    """

    name: str
    regret: Interval
    sharpe: Interval
    growth: Interval
    volatility: Interval


def periods_a_year(result: Result) -> float:
    """How many decisions there are in a year."""
    return TRADING_DAYS / result.config.holding


def sharpes(result: Result, name: str) -> np.ndarray:
    """The test Sharpe ratio of each seed, shape ``(seeds,)``."""
    per_year = periods_a_year(result)
    return np.array([annual_sharpe(t.returns.numpy(), per_year) for t in result.tracks[name]])


def regrets(result: Result, name: str) -> np.ndarray:
    """The regret of each test decision in each seed, shape ``(seeds, T)``."""
    return np.stack([track.regret.numpy() for track in result.tracks[name]])


def summarise(result: Result) -> list[Row]:
    """One row for each strategy, in the order of the result."""
    per_year = periods_a_year(result)

    def row(name: str, tracks: list[Track]) -> Row:
        returns = np.stack([track.returns.numpy() for track in tracks])
        return Row(
            name,
            mean_interval(regrets(result, name).mean(1)),
            mean_interval(sharpes(result, name)),
            mean_interval(per_year * returns.mean(1)),
            mean_interval(math.sqrt(per_year) * returns.std(1, ddof=1)),
        )

    return [row(name, tracks) for name, tracks in result.tracks.items()]


def introduction(config: Config, market: Market) -> str:
    """What will be decided, when and how often."""
    spans = ", ".join(
        f"{what} {len(part)} ({part.days[0]} to {part.days[-1]})"
        for what, part in zip(("train", "validate", "test"), split(market), strict=True)
    )
    return (
        f"{len(market.assets)} stocks, one decision every {config.holding} trading days (not "
        f"daily, to save time): {spans}. No trading costs, a risk-free rate of 0, and stocks "
        "picked because they survived to 2022: compare the rows with one another, not with the "
        "world."
    )


def table(result: Result) -> Table:
    """The rows of :func:`summarise` for the terminal."""
    seeds = result.config.seeds
    spread = "one seed" if seeds == 1 else f"± 95 % over {seeds} seeds"
    shown = Table(title=f"Test decisions, best in bold ({spread})")
    shown.add_column("strategy", no_wrap=True)
    for heading in ("regret\n% of wealth", "Sharpe ratio\na year", "return\n% a year"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("volatility\n% a year", justify="right", no_wrap=True)
    rows = summarise(result)
    lowest = min(row.regret.mean for row in rows)
    highest = max(row.sharpe.mean for row in rows)
    for row in rows:
        cells = [row.regret.text(3), row.sharpe.text(2), row.growth.text(1), row.volatility.text(1)]
        cells[0] = f"[bold]{cells[0]}[/]" if row.regret.mean == lowest else cells[0]
        cells[1] = f"[bold]{cells[1]}[/]" if row.sharpe.mean == highest else cells[1]
        shown.add_row(row.name, *cells)
    return shown


def verdict(result: Result) -> list[str]:
    """Who wins, by how much, and whether that is more than chance: one sentence for each question.

    The two trained models are compared seed by seed, which removes what the seed does to both.
    Intervals over seeds say what another training run might give; the interval over decisions
    says what other weeks might have given.
    """
    saved = regrets(result, TWO_STAGE) - regrets(result, FOLDED)
    sharper = mean_interval(sharpes(result, FOLDED) - sharpes(result, TWO_STAGE))
    by_week = mean_interval(saved.mean(0))
    lines = [
        _duel("Regret", "lower", mean_interval(saved.mean(1)), f"{len(saved)} seeds", 3),
        _duel("Regret", "lower", by_week, f"{saved.shape[1]} test decisions, seeds averaged", 3),
        _duel("Sharpe ratio", "higher", sharper, f"{len(saved)} seeds", 2),
    ]
    wins = int((saved.mean(1) > 0).sum())
    lines.append(
        f"Seed by seed: folded has the lower regret in {wins} of {len(saved)}, "
        f"two-stage in {len(saved) - wins}."
    )
    rows = summarise(result)
    trained = [row for row in rows if row.name in (TWO_STAGE, FOLDED)]
    for row in rows:
        if row.name not in (TWO_STAGE, FOLDED):
            lines.append(f"Without training, {row.name}: {_against(row, trained)}.")
    return lines


def _duel(measure: str, better: str, gain: Interval, over: str, decimals: int) -> str:
    """Say whether a gain of the folded model over the two-stage one is more than chance."""
    ahead, behind = ("folded", "two-stage") if gain.mean > 0 else ("two-stage", "folded")
    size = Interval(abs(gain.mean), gain.half).text(decimals)
    if math.isnan(gain.half):
        judgement = "one value only, so that chance cannot be told from merit"
    elif gain.excludes_zero:
        judgement = f"{ahead} wins (the 95 % interval excludes 0)"
    else:
        judgement = "undecided (the 95 % interval contains 0)"
    return f"{measure}, over {over}: {ahead} is {better} than {behind} by {size}: {judgement}."


def _against(row: Row, trained: list[Row]) -> str:
    """How an untrained strategy stands against each trained model."""
    regret = [_stand(m.regret, row.regret.mean) + m.name for m in trained]
    sharpe = [
        _stand(Interval(-m.sharpe.mean, m.sharpe.half), -row.sharpe.mean) + m.name for m in trained
    ]
    return f"in regret {' and '.join(regret)}; in Sharpe ratio {' and '.join(sharpe)}"


def _stand(model: Interval, cost: float) -> str:
    """Where a cost stands against the interval of a model's cost over its seeds."""
    if abs(cost - model.mean) <= model.half:
        return "level with "
    return "ahead of " if cost < model.mean else "behind "


def write_numbers(result: Result, path: Path) -> None:
    """Write config, versions, the result of every seed and the verdict as JSON."""
    numbers: dict[str, Any] = {
        "study": "portfolio",
        "config": dataclasses.asdict(result.config),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "assets": list(result.parts[-1].assets),
        "parts": {
            name: {"decisions": len(part), "from": str(part.days[0]), "to": str(part.days[-1])}
            for name, part in zip(("train", "validation", "test"), result.parts, strict=True)
        },
        "units": {"regret": "percent of wealth a decision", "growth, volatility": "percent a year"},
        "summary": [_plain(row) for row in summarise(result)],
        "tracks": {name: _tracks(result, name) for name in result.tracks},
        "verdict": verdict(result),
        "certificate": {"problems": result.problems, "largest_residual": result.residual},
        "seconds": round(result.seconds, 1),
    }
    path.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(row: Row) -> dict[str, Any]:
    intervals = {
        field.name: getattr(row, field.name)
        for field in dataclasses.fields(row)
        if field.name != "name"
    }
    return {
        "strategy": row.name,
        **{
            key: {"mean": _number(value.mean), "half_width_95": _number(value.half)}
            for key, value in intervals.items()
        },
    }


def _tracks(result: Result, name: str) -> list[dict[str, Any]]:
    entries = []
    tracks = zip(result.tracks[name], sharpes(result, name), strict=True)
    for seed, (track, sharpe) in enumerate(tracks):
        entry: dict[str, Any] = {"regret": float(track.regret.mean()), "sharpe": _number(sharpe)}
        if track.history is not None:
            entry = {
                "seed": seed,
                **entry,
                "epoch": track.history.best + 1,
                "training_loss": list(track.history.loss),
                "validation_regret": list(track.history.score),
                "seconds": round(track.history.seconds, 2),
            }
        entries.append(entry)
    return entries


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
