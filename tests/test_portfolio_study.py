"""The portfolio study as a whole: a small run, its statistics, and a verdict that is honest."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

import foldopt as fo
from foldopt.experiments.market import Market, observe, split
from foldopt.experiments.markowitz import report as portfolio_report
from foldopt.experiments.markowitz.figure import write_figure
from foldopt.experiments.markowitz.training import (
    EQUAL_WEIGHTS,
    FOLDED,
    TWO_STAGE,
    Config,
    Result,
    Track,
    run,
    workload,
)
from foldopt.experiments.statistics import annual_sharpe, mean_interval
from foldopt.learning import History
from tests.prices import invented_prices

F64 = torch.float64


@pytest.fixture(scope="module")
def small() -> Market:
    return observe(*invented_prices(330, 4))


SMALL = Config(seeds=2, epochs=2)


def test_a_small_run(small: Market, tmp_path: pathlib.Path) -> None:
    solved: list[int] = []
    threads = torch.get_num_threads()
    result = run(SMALL, small, solved.append)
    assert torch.get_num_threads() == threads
    assert len(solved) == 2 * SMALL.seeds * SMALL.epochs
    assert sum(solved) == workload(SMALL, small)
    assert result.residual < 1e-6
    sizes = [len(part) for part in split(small)]
    # Hindsight for all parts, training, the test of every model, and two untrained strategies.
    assert result.problems == sum(sizes) + sum(solved) + (2 * SMALL.seeds + 2) * sizes[2]

    again = run(SMALL, small)
    for name, tracks in result.tracks.items():
        assert len(tracks) == (SMALL.seeds if name in (TWO_STAGE, FOLDED) else 1)
        for track, other in zip(tracks, again.tracks[name], strict=True):
            assert torch.equal(track.regret, other.regret)
            assert track.regret.min() > -1e-8
    held = split(small)[2].realised.mean(-1)
    assert torch.allclose(result.tracks[EQUAL_WEIGHTS][0].returns, held)

    portfolio_report.write_numbers(result, tmp_path / "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["config"]["seeds"] == 2
    assert numbers["versions"]["fold-opt"] == fo.__version__
    assert numbers["parts"]["test"]["decisions"] == sizes[2]
    first = numbers["tracks"][FOLDED][0]
    assert first["regret"] == pytest.approx(result.tracks[FOLDED][0].regret.mean().item())
    assert len(first["validation_regret"]) == SMALL.epochs

    write_figure(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_no_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        Config(seeds=0)


def test_intervals_and_ratios() -> None:
    values = np.random.default_rng(0).standard_normal(7)
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(mean_interval([2.0]).half)
    assert mean_interval([2.0]).text(1) == "2.0"
    assert not mean_interval([2.0]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    expected = values.mean() / values.std(ddof=1) * math.sqrt(50.4)
    assert annual_sharpe(values, 50.4) == pytest.approx(expected)
    assert math.isnan(annual_sharpe(np.ones(3), 50.4))


def outcome(small: Market, two_stage: list[float], folded: list[float], equal: float) -> Result:
    """A result in which each seed has the given mean regret."""
    wave = torch.linspace(-1, 1, len(split(small)[2]), dtype=F64)

    def track(cost: float) -> Track:
        return Track(cost + 0.01 * wave, 1 - cost + wave, History((0.0,), (cost,), 0, 0.1))

    tracks = {
        TWO_STAGE: [track(cost) for cost in two_stage],
        FOLDED: [track(cost) for cost in folded],
        EQUAL_WEIGHTS: [dataclasses.replace(track(equal), history=None)],
    }
    return Result(Config(seeds=len(folded), epochs=1), split(small), tracks, 1, 0.0, 0.1)


@pytest.mark.parametrize(
    ("two_stage", "folded", "says"),
    [
        ([0.50, 0.51], [0.40, 0.411], "folded is lower than two-stage by 0.100 ± 0.006: folded wi"),
        ([0.40, 0.411], [0.50, 0.51], "two-stage is lower than folded by 0.100 ± 0.006: two-stage"),
        ([0.5, 0.3], [0.4, 0.39], "± 1.207: undecided (the 95 % interval contains 0)"),
        ([0.5], [0.4], "by 0.100: one value only"),
    ],
)
def test_the_verdict(small: Market, two_stage: list[float], folded: list[float], says: str) -> None:
    result = outcome(small, two_stage, folded, equal=0.45)
    lines = portfolio_report.verdict(result)
    assert says in lines[0]
    assert f"over {len(folded)} seeds" in lines[0]
    assert "test decisions, seeds averaged" in lines[1]
    wins = sum(a > b for a, b in zip(two_stage, folded, strict=True))
    assert f"lower regret in {wins} of {len(folded)}" in lines[3]


@pytest.mark.parametrize(
    ("equal", "says"),  # the two models' intervals are 0.505 ± 0.064 and 0.406 ± 0.070
    [
        (0.3, ("ahead of", "ahead of")),
        (0.41, ("ahead of", "level with")),
        (0.49, ("level with", "behind")),
        (0.6, ("behind", "behind")),
    ],
)
def test_the_untrained_are_judged_too(small: Market, equal: float, says: tuple[str, str]) -> None:
    line = portfolio_report.verdict(outcome(small, [0.5, 0.51], [0.4, 0.411], equal))[-1]
    stands = f"{says[0]} {TWO_STAGE} and {says[1]} {FOLDED}"
    assert f"in regret {stands}; in Sharpe ratio {stands}" in line


def test_the_table_shows_the_best_in_bold(small: Market) -> None:
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    console.print(portfolio_report.table(outcome(small, [0.5, 0.51], [0.4, 0.412], 0.3)))
    text = console.export_text(styles=True)
    assert "\x1b[1m0.300\x1b[0m" in text
    assert "0.406 ± 0.076" in text
