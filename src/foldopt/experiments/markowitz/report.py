"""What a run of the study on real prices says: a verdict, findings, tables and a figure."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from foldopt.experiments.frame import Figure, Report, Table, adjoint_table, certificate_table
from foldopt.experiments.frame.report import Verdict
from foldopt.experiments.markowitz.figure import write_figure
from foldopt.experiments.markowitz.outcome import Result, gathered
from foldopt.experiments.markowitz.plan import ADJOINTS, FOLDED, TWO_STAGE, Config
from foldopt.experiments.statistics import Interval, mean_interval

__all__ = ["Row", "findings", "judge", "summarise", "table", "write_report"]

CLAIM = (
    "A study of our own: arXiv 2301.12047, Section 6, finds that networks trained on the regret of "
    "their decisions decide better than networks trained on error. Does that hold of portfolios "
    "on real prices, which the paper does not have?"
)
CHOICES = (
    "One decision every few trading days, not daily, to save time; no trading costs, a risk-free "
    "rate of 0.",
    "The stocks were picked because they survived to 2022: compare the rows with one another, not "
    "with the world.",
    "The mean–variance objective with an aversion γ, not a limit on the variance (eq. 20, which "
    "the study of portfolios follows).",
    "Both losses get the same initial weights, the same batches and the same choice of the epoch, "
    "by validation regret.",
)
FIGURE = "markowitz.png"


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


def write_report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """Draw the figure, and say what came out.

    Parameters
    ----------
    config
        The settings.
    results
        Of every job, by key.
    folder
        Where the figure goes.

    Returns
    -------
    Report
        Claim, verdict, findings, tables and the figure.
    """
    result = gathered(config, results)
    verdict, why = judge(result)
    write_figure(result, folder / FIGURE)
    return Report(
        claim=CLAIM,
        ran=_ran(result),
        choices=CHOICES,
        verdict=verdict,
        why=why,
        findings=tuple(findings(result)),
        tables=(
            table(result),
            adjoint_table({"portfolio, after training on regret": results[ADJOINTS]}),
            certificate_table(result.certificates),
        ),
        figures=(
            Figure(
                FIGURE, "Validation regret by epoch, and wealth in the test years, by strategy."
            ),
        ),
    )


def _ran(result: Result) -> str:
    config = result.config
    spans = ", ".join(
        f"{name} {part['decisions']} ({part['from']} to {part['to']})"
        for name, part in result.parts.items()
    )
    return (
        f"{len(result.assets)} stocks of the S&P 500, daily closes that skfolio ships, one "
        f"decision every {config.holding} trading days: {spans}. {config.seeds} seeds of each "
        f"network, {config.epochs} epochs of Adam at {config.learning_rate:g}, batches of "
        f"{config.batch_size}; γ = {config.risk_aversion:g} in percent; quadratic programs by PIQP."
    )


def judge(result: Result) -> tuple[Verdict, str]:
    """Whether training on regret pays, and the figures that say so.

    Parameters
    ----------
    result
        Of all jobs.

    Returns
    -------
    verdict, why
        ``"reproduced"`` if the test regret is lower beyond the 95 % intervals over seeds and over
        decisions both; ``"partly reproduced"`` if over seeds alone, where other weeks might have
        turned it.
    """
    saved = result.regrets(TWO_STAGE) - result.regrets(FOLDED)
    by_seed, by_week = mean_interval(saved.mean(1)), mean_interval(saved.mean(0))
    means = {name: result.regrets(name).mean() for name in (TWO_STAGE, FOLDED)}
    why = (
        f"Mean test regret is {means[TWO_STAGE]:.3f} % of wealth a decision for {TWO_STAGE} and "
        f"{means[FOLDED]:.3f} % for {FOLDED}. Saved by the latter: {by_seed.text(3)} over "
        f"{len(saved)} seeds, {by_week.text(3)} over {saved.shape[1]} test decisions (± 95 %)."
    )
    if math.isnan(by_seed.half):
        return "cannot be tested", f"{why} One seed shows nothing in general."
    if by_seed.mean > 0 and by_seed.excludes_zero:
        if by_week.excludes_zero:
            return "reproduced", why
        return "partly reproduced", f"{why} Over decisions the interval contains 0."
    return "not reproduced", why


def summarise(result: Result) -> list[Row]:
    """One row for each strategy, in the order of the result."""
    per_year = result.periods_a_year

    def row(name: str) -> Row:
        returns = result.returns(name)
        return Row(
            name,
            mean_interval(result.regrets(name).mean(1)),
            mean_interval(result.sharpes(name)),
            mean_interval(per_year * returns.mean(1)),
            mean_interval(math.sqrt(per_year) * returns.std(1, ddof=1)),
        )

    return [row(name) for name in result.tracks]


def table(result: Result) -> Table:
    """The rows of :func:`summarise`; the best regret and Sharpe ratio are marked."""
    seeds = result.config.seeds
    spread = "one seed" if seeds == 1 else f"± 95 % over {seeds} seeds"
    rows = summarise(result)
    lowest = min(row.regret.mean for row in rows)
    highest = max(row.sharpe.mean for row in rows)
    cells = []
    for row in rows:
        regret, sharpe = row.regret.text(3), row.sharpe.text(2)
        cells.append(
            (
                row.name,
                f"{regret} (best)" if row.regret.mean == lowest else regret,
                f"{sharpe} (best)" if row.sharpe.mean == highest else sharpe,
                row.growth.text(1),
                row.volatility.text(1),
            )
        )
    return Table(
        f"Test decisions ({spread})",
        (
            "strategy",
            "regret, % of wealth",
            "Sharpe ratio a year",
            "return, % a year",
            "volatility, % a year",
        ),
        tuple(cells),
    )


def findings(result: Result) -> list[str]:
    """Who wins, by how much, and whether that is more than chance: one sentence for each question.

    The two trained models are compared seed by seed, which removes what the seed does to both.
    Intervals over seeds say what another training run might give; the interval over decisions
    says what other weeks might have given.
    """
    saved = result.regrets(TWO_STAGE) - result.regrets(FOLDED)
    sharper = mean_interval(result.sharpes(FOLDED) - result.sharpes(TWO_STAGE))
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
