"""The bilinear study: its settings and jobs, and a report that is honest about made-up results."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from scipy import stats

from foldopt.experiments.bilinear.outcome import Outcome
from foldopt.experiments.bilinear.plan import (
    ADJOINTS,
    CHECKS,
    GRADIENTS,
    LONGER,
    MORE_ERROR,
    TWO_STAGE,
    Config,
    engines,
    folded_name,
    jobs,
    models,
    more_regret,
    training_key,
)
from foldopt.experiments.bilinear.report import findings, judge, write_report
from foldopt.experiments.bilinear.study import STUDY
from foldopt.experiments.bilinear.tables import agreement_table, references
from foldopt.experiments.frame import Report

CONFIG = Config(problems=2, seeds=3, epsilons=(1.0, 4.0), more_epsilons=(4.0,))
FOLDED, TUNED = folded_name(1.0), more_regret(4.0)


# -- settings and jobs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"problems": 0}, "problems must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"samples": 10}, "samples must be at least 20, got 10"),
        ({"n": 1}, "n must be at least 2, got 1"),
        ({"checked": 0}, "checked must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"epsilons": ()}, r"epsilons must be one number at least, all above 0, got \(\)"),
        ({"epsilons": (1.0, 0.0)}, "without ε the derivative is zero"),
        ({"more_epsilons": (2.0, 2.0)}, "more_epsilons must differ from each other"),
        ({"solver": "guess"}, "solver must be one of ascent, scip, gurobi; got 'guess'"),
    ],
)
def test_mistakes_in_the_settings(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Config(**change)


def test_a_solver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldopt.experiments.bilinear.plan.engines", lambda: ["scip"])
    assert Config(solver="scip").solver == "scip"
    with pytest.raises(ValueError, match="solver 'gurobi' needs gurobipy: pip install gurobipy"):
        Config(solver="gurobi")


def test_the_models() -> None:
    first, later = models(CONFIG, 0), models(CONFIG, 1)
    names = [model.name for model in later]
    assert names == [TWO_STAGE, FOLDED, folded_name(4.0), LONGER, MORE_ERROR, TUNED]
    assert first[: len(later)] == later
    assert {model.epsilon for model in first[len(later) :]} == {0.0, 1.0, 16.0}
    for place, model in enumerate(first):
        assert model.after is None or model.after in [before.name for before in first[:place]]
    assert len({model.name for model in first}) == len(first)
    assert models(dataclasses.replace(CONFIG, ablations=False), 0) == later
    known = dataclasses.replace(CONFIG, epsilons=(16.0,))
    assert [m.epsilon for m in models(known)].count(16.0) == 2  # plain, and the bilinear loss


def test_the_jobs() -> None:
    found = jobs(CONFIG)
    keys = [job.key for job in found]
    assert len(keys) == len(set(keys)) == 2 * 3 + 3
    work = {job.key: job.work for job in found}
    epochs = sum(model.epochs for model in models(CONFIG, 1))
    assert work[training_key(1, 2)] == epochs == 3 * 5 + 20 + 2 * 5
    assert work[training_key(0, 0)] == epochs + 3 * 5
    assert work[CHECKS] == 3 * len(engines()) + 3
    assert [job.key for job in found if job.alone] == [ADJOINTS]
    assert STUDY.jobs(CONFIG) == found


# -- the report -----------------------------------------------------------------------------

SUMMARY = {
    "solved": 10, "unsolved": 1, "forward": 1e-16, "differentiated": 10, "masked": 2,
    "backward": 1e-12, "warned": 0,
}  # fmt: skip


def trained(test: float) -> dict[str, Any]:
    return {
        "test": test, "validation": 0.1, "training": 0.2, "error": 0.9, "epoch": 2,
        "loss": [1.0], "score": [1.0], "moved": 0.0, "certificates": SUMMARY,
    }  # fmt: skip


def made_up(
    config: Config, regrets: dict[str, list[float]], spread: float = 0.01
) -> dict[str, Any]:
    """Results in which a model has the given mean regret on each Q, and 0.5 if none is given."""
    results: dict[str, Any] = {}
    for problem in range(config.problems):
        for repetition in range(config.seeds):
            # Opposite noise for the reference and the others, so that pairs do not cancel it.
            noise = spread * (repetition - (config.seeds - 1) / 2)
            found = {}
            for model in models(config, repetition):
                mean = regrets.get(model.name, [0.5] * config.problems)[problem]
                found[model.name] = trained(mean + (noise if model.epsilon is None else -noise))
            found.get(folded_name(0.0), {})["test"] = 1.5
            results[training_key(problem, repetition)] = {
                "models": found, "mean costs": 1.25, "initial weights": 1.5,
            }  # fmt: skip
    agreement = {
        "engine": "scip", "epsilon": 1.0, "programs": 20, "proved": 20, "worse": 0,
        "value": 1e-12, "distance": 1e-9, "seconds": 0.5,
    }  # fmt: skip
    results[CHECKS] = {
        "agreements": [agreement, {**agreement, "proved": 0, "value": None, "distance": None}],
        "shares": {"0": 0.0, "1": 0.9},
        "unsmoothed": 0.0,
        "epoch": {"examples": 160, "gap": 1e-11, "change": 0.02},
    }
    signal = {"samples": 1.0, "entries": 0.1, "towards_truth": 0.17, "signal_to_noise": 0.25}
    silent = {"samples": 0.0, "entries": 0.0, "towards_truth": None, "signal_to_noise": 0.0}
    losses = {"squared error": signal, folded_name(0.0): silent, FOLDED: signal}
    results[GRADIENTS] = {"initial weights": losses, LONGER: losses}
    row = {"products": 3, "dense": False, "seconds": 0.001, "error": 1e-12, "failed": 0}
    results[ADJOINTS] = {
        FOLDED: {
            "n": 20, "samples": 100, "median": 0.92, "worst": 0.94, "singular": False,
            "solvers": {"GMRES": row}, "left_out": 0,
        }
    }  # fmt: skip
    return results


def outcome(
    regrets: dict[str, list[float]], spread: float = 0.01, config: Config = CONFIG
) -> Outcome:
    return Outcome(config, made_up(config, regrets, spread))


@pytest.mark.parametrize(
    ("two_stage", "folded", "spread", "verdict", "says"),
    [
        ([0.5, 0.52], [0.4, 0.42], 0.01, "reproduced", ["on 2 of 2 Q", "is lower by 0.100"]),
        ([0.4, 0.42], [0.5, 0.52], 0.01, "not reproduced", ["on 0 of 2 Q", "higher by 0.100"]),
        ([0.4, 0.5], [0.5, 0.4], 0.01, "not reproduced", ["on 1 of 2 Q", "within its interval"]),
        ([0.5, 0.5], [0.45, 0.4], 9.0, "reproduced", ["lower on 0 and higher on 0"]),
    ],
)
def test_the_verdict(
    two_stage: list[float], folded: list[float], spread: float, verdict: str, says: list[str]
) -> None:
    found, why = judge(outcome({TWO_STAGE: two_stage, FOLDED: folded}, spread))
    assert found == verdict
    for part in says:
        assert part in why


def test_better_overall_but_not_everywhere() -> None:
    config = dataclasses.replace(CONFIG, problems=20)
    folded = [0.4] * 19 + [0.51]
    found, why = judge(outcome({FOLDED: folded}, config=config))
    assert found == "partly reproduced"
    assert "on 19 of 20 Q" in why


def test_one_q_shows_nothing() -> None:
    config = dataclasses.replace(CONFIG, problems=1, seeds=1)
    found, why = judge(outcome({TWO_STAGE: [0.5], FOLDED: [0.4]}, config=config))
    assert found == "cannot be tested"
    assert "One Q shows nothing" in why
    assert "nan" not in why


def test_intervals_are_paired_and_over_independent_things() -> None:
    random = np.random.default_rng(0)
    config = dataclasses.replace(CONFIG, problems=6)
    first, second = random.random(6), random.random(6)
    found = outcome({TWO_STAGE: list(first), FOLDED: list(second)}, 0.1, config)
    saved = found.saved_overall(TWO_STAGE, FOLDED)
    assert saved.mean == pytest.approx((first - second).mean())
    paired = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert saved.half == pytest.approx((paired.high - paired.low) / 2)
    assert found.regret(FOLDED).shape == (6, 3)
    assert found.regret(folded_name(0.0)).shape == (6, 1)
    assert found.saved(TWO_STAGE, folded_name(0.0)).shape == (6, 1)
    assert np.allclose(found.saved(TWO_STAGE, FOLDED).mean(1), first - second)


def test_certificates_add_up() -> None:
    total = outcome({}).certificates(FOLDED)
    assert (total["masked"], total["solved"]) == (2 * 6, 10 * 6)
    assert total["backward"] == 1e-12


def test_each_model_is_compared_with_its_own_reference() -> None:
    pairs = references(outcome({}))
    assert (TWO_STAGE, FOLDED) in pairs
    assert (MORE_ERROR, TUNED) in pairs
    assert all(first in (TWO_STAGE, MORE_ERROR) for first, _ in pairs)


def test_the_findings() -> None:
    found = outcome({MORE_ERROR: [0.4, 0.4], TUNED: [0.3, 0.31]})
    text = "\n".join(findings(found, found.results))
    assert f"({TUNED}) give 0.305" in text
    assert "lower on 2 of 2 Q" in text
    assert "learns nothing" in text
    assert "proved 20 optima; ours are the same" in text
    assert "cosine of 0.17" in text


def test_what_went_wrong_would_be_said() -> None:
    found = outcome({})
    results = found.results
    results[CHECKS]["agreements"][0]["worse"] = 3
    assert any("OURS DIFFER: worse on 3" in line for line in findings(found, results))
    results[CHECKS]["agreements"][0] |= {"worse": 0, "value": 0.5}
    assert any("objectives by up to 5e-01" in line for line in findings(found, results))
    moved = results[training_key(0, 0)]["models"][folded_name(0.0)]
    moved["test"] = 1.4
    assert any("the network CHANGES" in line for line in findings(found, results))
    silent = results[GRADIENTS]["initial weights"][folded_name(0.0)]
    results[GRADIENTS]["initial weights"][FOLDED] = silent
    assert any("reaches no sample at all" in line for line in findings(found, results))


def test_solvers_that_proved_nothing_have_no_gap() -> None:
    rows = agreement_table(outcome({}).results[CHECKS]["agreements"]).rows
    assert rows[0][4:6] == ("1e-12", "1e-09")
    assert rows[1][4:6] == ("–", "–")


def report_of(config: Config, folder: pathlib.Path) -> Report:
    # What the report is given has been through JSON.
    results = json.loads(json.dumps(made_up(config, {})))
    return write_report(config, results, folder)


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, problems=1, seeds=1)])
def test_the_report(config: Config, tmp_path: pathlib.Path) -> None:
    said = report_of(config, tmp_path)
    for figure in said.figures:
        assert (tmp_path / figure.file).read_bytes().startswith(b"\x89PNG")
    cells = [cell for table in said.tables for row in table.rows for cell in row]
    assert "1.250" in cells  # mean costs
    assert not any("nan" in cell for cell in cells)
    assert not any("nan" in line for line in (said.why, *said.findings))
    titles = " ".join(table.title for table in said.tables)
    for part in ("by Q", "Certificates", "adjoint system", "Global optima"):
        assert part in titles
    assert "f-PGDb" in said.claim
    assert any("piecewise" in line or "zero" in line for line in said.choices)


def test_no_ablations_no_word_of_them(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(CONFIG, ablations=False)
    said = report_of(config, tmp_path)
    assert not any("With ε = 0 the network" in line for line in said.findings)
