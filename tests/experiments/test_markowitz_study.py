"""The study on real prices: a small run, its statistics, and a verdict that is honest."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from foldopt.experiments import market
from foldopt.experiments.frame.runner import Run
from foldopt.experiments.frame.runner import run as run_study
from foldopt.experiments.market import observe, split
from foldopt.experiments.markowitz import training
from foldopt.experiments.markowitz.outcome import Result, Track, gathered
from foldopt.experiments.markowitz.plan import (
    ADJOINTS,
    EQUAL_WEIGHTS,
    FOLDED,
    TWO_STAGE,
    UNTRAINED,
    Config,
    training_key,
)
from foldopt.experiments.markowitz.report import findings, judge, table
from foldopt.experiments.markowitz.study import STUDY
from foldopt.experiments.statistics import annual_sharpe, mean_interval
from foldopt.learning import History
from tests.prices import invented_prices

PRICES = invented_prices(330, 4)
SMALL = Config(seeds=2, epochs=2)


@pytest.fixture(autouse=True)
def few_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market, "load_sp500", lambda: PRICES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("runs") / "markowitz"


def test_a_small_run(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    state = torch.get_rng_state()
    given = Run(STUDY, SMALL, folder)
    run_study(given, workers=1)
    assert torch.equal(torch.get_rng_state(), state)
    results = given.results()
    result = gathered(SMALL, results)
    parts = split(observe(*PRICES))
    sizes = [len(part) for part in parts]
    assert [part["decisions"] for part in result.parts.values()] == sizes
    assert result.assets == parts[2].assets
    np.testing.assert_array_equal(result.days, parts[2].days)
    for name, tracks in result.tracks.items():
        assert len(tracks) == (SMALL.seeds if name in (TWO_STAGE, FOLDED) else 1)
        for track in tracks:
            assert track.regret.shape == track.returns.shape == (sizes[2],)
            assert track.regret.min() > -1e-8
            assert (track.history is None) == (name not in (TWO_STAGE, FOLDED))
    held = parts[2].realised.mean(-1)
    np.testing.assert_allclose(result.returns(EQUAL_WEIGHTS)[0], held)
    # Each job solves all parts with hindsight and its test; in training, the validation decisions
    # after each epoch, and the folded one every training decision.
    once = sum(sizes) + SMALL.epochs * sizes[1] + sizes[2]
    solved = {name: of["solved"] for name, of in result.certificates.items()}
    assert solved[TWO_STAGE] == SMALL.seeds * once
    assert solved[FOLDED] == SMALL.seeds * (once + SMALL.epochs * sizes[0])
    assert result.certificates[FOLDED]["differentiated"] == SMALL.seeds * SMALL.epochs * sizes[0]
    for certificate in result.certificates.values():
        assert certificate["forward"] < 1e-6
        assert certificate["unsolved"] == certificate["masked"] == certificate["warned"] == 0
    assert results[ADJOINTS]["samples"] == min(SMALL.batch_size, sizes[2])
    assert results[ADJOINTS]["solvers"]["Dense"]["error"] < 1e-9

    said = STUDY.report(SMALL, results, tmp_path)
    assert (tmp_path / said.figures[0].file).read_bytes().startswith(b"\x89PNG")
    assert [row[0] for row in said.tables[0].rows] == list(result.tracks)
    assert f"test {sizes[2]} ({result.days[0]}" in said.ran


def test_a_run_that_is_interrupted_ends_the_same(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first epoch, and gone on with: the same decisions, to the last digit."""
    whole = Run(STUDY, SMALL, folder)
    run_study(whole, workers=1)  # of the test above, if that has run
    job = next(job for job in whole.jobs if job.key == training_key(FOLDED, 1))
    journal = Run(STUDY, SMALL, tmp_path / "again").journal(job)

    class StopError(Exception):
        pass

    epoch = type(journal).epoch

    def stop(self: Any, **metrics: Any) -> None:
        epoch(self, **metrics)
        raise StopError

    journal.begin()
    with monkeypatch.context() as patched:
        patched.setattr(type(journal), "epoch", stop)
        with pytest.raises(StopError):
            training.train_one(SMALL, FOLDED, 1, journal)
    assert journal.checkpoint.exists()
    assert journal.epochs == 1
    resumed = training.train_one(SMALL, FOLDED, 1, journal)
    assert journal.epochs == 2
    straight = whole.results()[job.key]
    for name in ("regret", "returns"):
        assert resumed[name] == straight[name]
    for name in ("loss", "score"):
        assert list(resumed["history"][name]) == straight["history"][name]


def test_both_losses_begin_with_the_same_weights() -> None:
    state = torch.get_rng_state()
    first, again, other = (training.initial_model(SMALL, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    # and both predict no differences at first
    features = torch.randn(3, 4, 5, dtype=torch.float64)
    predicted = first(features)
    assert torch.equal(predicted, predicted[:, :1].expand_as(predicted))


@pytest.mark.parametrize(
    "bad", ["seeds", "epochs", "batch_size", "hidden", "holding", "window", "learning_rate"]
)
def test_a_config_that_makes_no_sense(bad: str) -> None:
    with pytest.raises(ValueError, match=f"{bad} must be"):
        Config(**{bad: 0})
    with pytest.raises(ValueError, match="risk_aversion must be above 0"):
        Config(risk_aversion=0.0)


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


def outcome(two_stage: list[float], folded: list[float], equal: float) -> Result:
    """A result in which each seed has the given mean regret."""
    days = split(observe(*PRICES))[2].days
    wave = np.linspace(-1, 1, len(days))
    nothing = {"solved": 1, "forward": 0.0}

    def track(cost: float, trained: bool = True) -> dict[str, Any]:
        history = {"loss": (0.0,), "score": (cost,), "best": 0, "seconds": 0.1}
        found = {"regret": (cost + 0.01 * wave).tolist(), "returns": (1 - cost + wave).tolist()}
        return {**found, "history": history, "certificates": nothing} if trained else found

    results: dict[str, Any] = {
        training_key(loss, seed): track(cost)
        for loss, costs in ((TWO_STAGE, two_stage), (FOLDED, folded))
        for seed, cost in enumerate(costs)
    }
    parts = {"test": {"decisions": len(days), "from": str(days[0]), "to": str(days[-1])}}
    results[UNTRAINED] = {
        "tracks": {EQUAL_WEIGHTS: track(equal, trained=False)},
        "assets": ["A"], "parts": parts, "days": [str(day) for day in days],
    }  # fmt: skip
    config = Config(seeds=len(folded), epochs=1)
    return gathered(config, json.loads(json.dumps(results)))


def test_gathering_keeps_what_the_jobs_wrote() -> None:
    result = outcome([0.5, 0.6], [0.4, 0.3], 0.45)
    assert [round(float(row.mean()), 9) for row in result.regrets(FOLDED)] == [0.4, 0.3]
    assert result.tracks[TWO_STAGE][1].history == History((0.0,), (0.6,), 0, 0.1)
    assert result.certificates[FOLDED] == {"solved": 2, "forward": 0.0}
    assert isinstance(result.tracks[EQUAL_WEIGHTS][0], Track)
    assert result.periods_a_year == pytest.approx(50.4)


@pytest.mark.parametrize(
    ("two_stage", "folded", "verdict"),
    [
        ([0.50, 0.51], [0.40, 0.411], "reproduced"),
        ([0.40, 0.411], [0.50, 0.51], "not reproduced"),
        ([0.5, 0.3], [0.4, 0.39], "not reproduced"),
        ([0.5], [0.4], "cannot be tested"),
    ],
)
def test_the_judgement(two_stage: list[float], folded: list[float], verdict: str) -> None:
    found, why = judge(outcome(two_stage, folded, 0.45))
    assert found == verdict
    assert "nan" not in why
    assert f"{np.mean(two_stage):.3f} % of wealth a decision for {TWO_STAGE}" in why


def test_other_weeks_might_have_turned_it() -> None:
    """Lower in every seed, but by weeks that differ so much that the mean says little."""
    result = outcome([0.50, 0.51], [0.40, 0.411], 0.45)
    for track in result.tracks[TWO_STAGE]:
        track.regret[::2] += 5.0
        track.regret[1::2] -= 5.0 * len(track.regret[::2]) / len(track.regret[1::2])
    found, why = judge(result)
    assert found == "partly reproduced"
    assert "Over decisions the interval contains 0." in why


@pytest.mark.parametrize(
    ("two_stage", "folded", "says"),
    [
        ([0.50, 0.51], [0.40, 0.411], "folded is lower than two-stage by 0.100 ± 0.006: folded wi"),
        ([0.40, 0.411], [0.50, 0.51], "two-stage is lower than folded by 0.100 ± 0.006: two-stage"),
        ([0.5, 0.3], [0.4, 0.39], "± 1.207: undecided (the 95 % interval contains 0)"),
        ([0.5], [0.4], "by 0.100: one value only"),
    ],
)
def test_the_verdict(two_stage: list[float], folded: list[float], says: str) -> None:
    result = outcome(two_stage, folded, equal=0.45)
    lines = findings(result)
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
def test_the_untrained_are_judged_too(equal: float, says: tuple[str, str]) -> None:
    line = findings(outcome([0.5, 0.51], [0.4, 0.411], equal))[-1]
    stands = f"{says[0]} {TWO_STAGE} and {says[1]} {FOLDED}"
    assert f"in regret {stands}; in Sharpe ratio {stands}" in line


def test_the_table_marks_the_best() -> None:
    rows = table(outcome([0.5, 0.51], [0.4, 0.412], 0.3)).rows
    assert [row[1] for row in rows] == ["0.505 ± 0.064", "0.406 ± 0.076", "0.300 (best)"]
    assert [row[2].endswith("(best)") for row in rows] == [False, False, True]
    assert "one seed" in table(outcome([0.5], [0.4], 0.3)).title
