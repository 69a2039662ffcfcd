"""The study of optimal power flow: its data, its trainings, its figures, its verdict, its jobs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldopt.experiments.acopf.data import cost, decided, factors, layer_of, loads, parts_of
from foldopt.experiments.acopf.layout import spring_layout
from foldopt.experiments.acopf.measure import flat_step, look_at_task, state_of, time_layer
from foldopt.experiments.acopf.plan import (
    FOLDED,
    LINEAR,
    METHODS,
    NETWORK,
    PREDICTORS,
    TASK,
    TIMES,
    TUNED,
    TWO_STAGE,
    Config,
    Spec,
    plan,
)
from foldopt.experiments.acopf.report import judge, saved
from foldopt.experiments.acopf.study import STUDY
from foldopt.experiments.acopf.training import (
    loss_of,
    model_of,
    relative_regret,
    train_one,
    violations,
)
from foldopt.experiments.frame import Journal
from foldopt.nn.acopf import Dispatch, read_grid

pytest.importorskip("pypower")
pytest.importorskip("casadi")

F64 = torch.float64
SMALL = Config(
    two_stage=1, case=9, seeds=1, epochs=2, hidden=8, train=6, validation=3, test=3, batch_size=3
)


def test_weather_acts_on_each_generator_in_its_own_way() -> None:
    # T₁ − 65 in units of 45 is heat, its negative cold, |T₁ − T₀| change; none counts beyond 1.
    a = torch.tensor([[0.4, 0.2, 0.1]], dtype=F64)
    days = torch.tensor([[65, 65], [65, 200], [42.5, 20], [110, 87.5]], dtype=F64)
    wanted = [1.0, 1 + 0.4 + 0.1, 1 + 0.2 + 0.05, 1 + 0.2 + 0.05]
    assert factors(days, a)[:, 0].tolist() == pytest.approx(wanted)


def test_loads_vary_together_and_not_too_far() -> None:
    nominal = torch.ones(30, dtype=F64)
    found = loads(nominal, 4000, 0.1, torch.Generator().manual_seed(0))
    assert found.std().item() == pytest.approx(0.1, rel=0.05)
    assert found.mean().item() == pytest.approx(1, abs=5e-3)
    correlation = np.corrcoef(found.numpy().T)
    assert correlation[~np.eye(30, dtype=bool)].mean() == pytest.approx(0.8, abs=0.03)
    wild = loads(nominal, 1000, 0.3, torch.Generator().manual_seed(0))
    assert (wild.min(), wild.max()) == (0.75, 1.25)


def test_examples_are_solved_and_drawn_again_alike() -> None:
    layer = layer_of(SMALL)
    first, second = (parts_of(SMALL, layer, 3) for _ in range(2))
    assert torch.equal(first.test.optimal, second.test.optimal)
    assert [len(part) for part in (first.train, first.validation, first.test)] == [6, 3, 3]
    found = decided(layer, first.test.truth, first.test.known)
    assert torch.allclose(found.pg, first.test.optimal, atol=1e-9)
    assert relative_regret(found.pg, first.test) == pytest.approx(0, abs=1e-10)
    equality, inequality = violations(layer, found, first.test.known)
    assert equality < 1e-10
    assert inequality < 1e-10
    # A dispatch that was made up violates what it violates.
    off = Dispatch(found.va, found.vm + 0.3, found.pg, found.qg)
    assert violations(layer, off, first.test.known)[1] == pytest.approx(0.3, abs=0.11)
    assert violations(layer, off, first.test.known)[0] > 0.1
    other = parts_of(SMALL, layer, 4)
    assert not torch.allclose(first.test.truth, other.test.truth)


def test_draws_without_a_solution_are_replaced_and_too_many_refused(monkeypatch) -> None:
    import foldopt.experiments.acopf.data as data

    few = dataclasses.replace(SMALL, train=2, validation=1, test=1)
    layer = layer_of(few, max_iterations=60)
    real, calls = data.loads, []

    def sometimes(nominal, count, spread, random):
        calls.append(count)
        found = real(nominal, count, spread, random)
        return torch.cat([9 * found[:1], found[1:]]) if len(calls) == 1 else found

    monkeypatch.setattr(data, "loads", sometimes)
    assert parts_of(few, layer, 0).refused == 1
    assert calls == [2, 1, 1, 1]
    monkeypatch.setattr(data, "loads", lambda *given: 9 * real(*given))
    with pytest.raises(RuntimeError, match=r"draws have no solution. Lower --spread"):
        parts_of(few, layer, 0)


def test_times_are_taken_where_draws_may_be_infeasible(monkeypatch) -> None:
    import foldopt.experiments.acopf.data as data

    real, calls = data.loads, []

    def sometimes(*given):
        calls.append(given)
        found = real(*given)
        return torch.cat([9 * found[:1], found[1:]]) if len(calls) == 1 else found

    monkeypatch.setattr(data, "loads", sometimes)
    found = time_layer(SMALL)
    assert len(calls) == 4  # one of them for the draw that was refused
    assert found["n"] == 24
    assert 0 < found["backward"] < found["forward"]
    assert found["adjoints"]["worst"] < 1e-8  # Φ = 0


def test_the_folded_loss_is_the_regret_and_descends_along_its_gradient() -> None:
    layer = layer_of(SMALL)
    examples = parts_of(SMALL, layer, 0).train
    model = model_of(SMALL, layer, Spec(NETWORK, FOLDED, 0))
    loss = loss_of(model, layer, FOLDED, examples)
    with torch.no_grad():
        pg = decided(layer, model(examples.features), examples.known).pg
        lost = cost(pg, examples.truth) / cost(examples.optimal, examples.truth) - 1
    assert loss.item() == pytest.approx(lost.mean().item())
    assert (lost > 0).all()
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    step = 1e-5 / float(sum(g.square().sum() for g in gradients)) ** 0.5
    values = []
    with torch.no_grad():
        for side in (1, -2):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight += side * step * gradient
            values.append(loss_of(model, layer, FOLDED, examples).item())
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float(sum(g.square().sum() for g in gradients)), rel=1e-5)


def test_the_published_task_does_not_move_the_dispatch_and_ours_does() -> None:
    found = look_at_task(SMALL)
    assert found["common"] < 1e-6
    assert found["own"] > 5
    assert found["total"] == 315


@pytest.mark.parametrize("case", [9, 14])
def test_the_newton_step_of_the_adjoint_table_stays_at_the_solution(case: int) -> None:
    layer = layer_of(Config(case=case))
    grid = layer.grid
    given = tuple(
        torch.tensor(part)[None] for part in (grid.pd, grid.qd, grid.quadratic, grid.linear)
    )
    state, step = state_of(layer, given), flat_step(layer)
    assert torch.allclose(step(state, *given), state, rtol=0, atol=1e-9)
    Phi = torch.func.jacrev(lambda z: step(z, *given))(state)[0, :, 0]
    assert Phi.abs().max() < 1e-8


def test_the_layout_keeps_neighbours_near() -> None:
    grid = read_grid("case30")
    places = spring_layout(30, grid.ends)
    assert np.array_equal(places, spring_layout(30, grid.ends))
    assert places.min() >= 0
    assert places.max() <= 1
    far = np.linalg.norm(places[:, None] - places, axis=-1)
    assert far[~np.eye(30, dtype=bool)].min() > 0.01
    assert far[grid.ends[0], grid.ends[1]].mean() < 0.6 * far.mean()


def test_training_lowers_the_regret_and_does_so_again(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, train=12, learning_rate=0.1)
    found = []
    for place in ("a", "b"):
        journal = Journal(tmp_path / place, "job")
        journal.begin()
        found.append(train_one(config, Spec(LINEAR, FOLDED, 0), journal))
        assert journal.epochs == 2
    assert found[0]["validation"] == found[1]["validation"]
    assert 0 <= found[0]["regret"] < 0.8 * found[0]["untrained"]
    assert found[0]["certificates"]["masked"] == 0
    assert found[0]["certificates"]["differentiated"] == 2 * 12
    assert found[0]["certificates"]["forward"] < 1e-10
    assert found[0]["equality"] < 1e-9
    assert found[0]["failed"] == 0


def test_all_jobs_and_the_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results: dict[str, Any] = {}
    for job in STUDY.jobs(SMALL):
        journal = Journal(tmp_path, job.key)
        journal.begin()
        results[job.key] = STUDY.work(SMALL, job.key, journal)
    # As they come back from their files.
    results = json.loads(json.dumps(results))
    shown = results[Spec(NETWORK, FOLDED, 0).key]["shown"]
    assert shown["best"]["cost"] <= min(shown["before"]["cost"], shown["after"]["cost"])
    written = STUDY.report(SMALL, results, tmp_path)
    assert written.verdict == "cannot be tested"  # of one seed
    assert "One seed tells nothing" in written.why
    assert [figure.file for figure in written.figures] == ["dispatch.png", "regret.png"]
    assert all((tmp_path / figure.file).stat().st_size > 5000 for figure in written.figures)
    assert written.tables[0].rows[0][0] == "network, folded"


def _results(gains: dict[tuple[str, str], float], share: float) -> dict[str, Any]:
    """Three seeds; a method saves so much in each, give or take 0.1."""
    results: dict[str, Any] = {TIMES: {"forward": 1.0, "backward": share}, TASK: {}}
    for spec in plan(Config(seeds=3)):
        better = gains.get((spec.predictor, spec.method), 0.0)
        better += 0.1 * (spec.seed - 1) if spec.method != TWO_STAGE else 0.0
        results[spec.key] = {"regret": 5.0 - better}
    return results


@pytest.mark.parametrize(
    ("gains", "share", "verdict", "says"),
    [
        ({(NETWORK, TUNED): 1.0, (LINEAR, FOLDED): 2.0}, 0.05, "reproduced", "lower beyond chance"),
        ({(NETWORK, TUNED): 1.0}, 0.05, "partly reproduced", "lower beyond chance with network"),
        ({(LINEAR, TUNED): 1.0, (NETWORK, TUNED): 1.0, (LINEAR, FOLDED): -1.0}, 0.05,
         "partly reproduced", "higher beyond chance with linear, folded"),
        ({}, 0.05, "partly reproduced", "no difference of regret is beyond chance"),
        ({(NETWORK, TUNED): 1.0, (LINEAR, TUNED): 2.0}, 0.5, "partly reproduced", "not cheap"),
        ({(LINEAR, TUNED): -1.0}, 0.5, "not reproduced", "higher beyond chance with linear, tuned"),
    ],
)  # fmt: skip
def test_verdict(gains: Any, share: float, verdict: str, says: str) -> None:
    config, results = Config(seeds=3), _results(gains, share)
    gain = gains.get((LINEAR, TUNED), 0.0)
    wanted = [gain + d for d in (-0.1, 0, 0.1)]
    assert saved(config, results, LINEAR, TUNED) == pytest.approx(wanted)
    found, why = judge(config, results)
    assert found == verdict
    assert says in why


def test_tuning_begins_as_two_stage_training_and_goes_on_by_folding(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, epochs=2, two_stage=1)
    lines = {}
    for method in (TWO_STAGE, TUNED, FOLDED):
        journal = Journal(tmp_path, method)
        journal.begin()
        train_one(config, Spec(LINEAR, method, 0), journal)
        lines[method] = [line["loss"] for line in journal.lines() if "loss" in line]
    assert lines[TUNED][0] == lines[TWO_STAGE][0] != lines[FOLDED][0]
    assert lines[TUNED][1] != lines[TWO_STAGE][1]


def test_every_job_is_named_once() -> None:
    keys = [job.key for job in STUDY.jobs(Config())]
    assert len(set(keys)) == len(keys) == 5 * len(METHODS) * len(PREDICTORS) + 2
    assert [job.key for job in STUDY.jobs(Config()) if job.alone] == [TIMES]
    assert f"linear-{TWO_STAGE}-seed-4" in keys


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"two_stage": 16}, "two_stage must be between 1 and the epochs, 15, got 16"),
        ({"case": 15}, r"case must be one of \(9, 14, .* got 15"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"response": 1.0}, "response must be above 0 and at most 0.9, got 1.0"),
        ({"noise": -0.1}, "noise must be between 0 and 0.3"),
        ({"spread": 0.5}, "spread must be between 0 and 0.3, got 0.5"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**wrong)
