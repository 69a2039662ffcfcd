"""The portfolio study: its loss, its trainings, its verdict, its jobs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foldopt.experiments.frame import Journal
from foldopt.experiments.portfolio.accuracy import score
from foldopt.experiments.portfolio.data import synthetic
from foldopt.experiments.portfolio.engines import engine_of
from foldopt.experiments.portfolio.layers import ConeLayer, folded_portfolio
from foldopt.experiments.portfolio.plan import (
    CONES,
    FOLDED,
    SCALED_CONES,
    SPO,
    TWO_STAGE,
    Config,
    Spec,
    Task,
    plan,
)
from foldopt.experiments.portfolio.report import judge
from foldopt.experiments.portfolio.study import STUDY
from foldopt.experiments.portfolio.tables import paired
from foldopt.experiments.portfolio.training import examples_of, spo_plus, train_one
from foldopt.nn._portfolio.interior_points import solve

SMALL = Config(
    seeds=1, epochs=2, hidden=8, train=48, validation=16, test=16, assets=5, degrees=(2,),
    noises=(0.1,), cone_degrees=(), engine_epochs=1, programs=2, sp500=False,
)  # fmt: skip
TASK = Task(0.1, 2)


def test_spo_plus_bounds_the_regret_and_has_the_stated_subgradient() -> None:
    data = synthetic(6, degree=2, noise=1.0, assets=5)
    batch = examples_of(data)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(data.returns.shape, generator=random, dtype=torch.float64)
    prediction = (data.returns + 0.02 * noise).requires_grad_()
    loss = spo_plus(prediction, batch)
    x = solve(prediction.detach(), *batch.known).x.x
    lost = ((batch.optimal - x) * batch.truth).sum(-1)
    assert (loss >= lost - 1e-12).all()
    assert (lost > 0).any()
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    mirrored = solve(2 * prediction.detach() - batch.truth, *batch.known).x.x
    assert torch.allclose(gradient, 2 * (mirrored - batch.optimal), rtol=0, atol=1e-12)
    # The loss is smooth here: the subgradient is the derivative.
    for i in range(5):
        e = torch.zeros(5, dtype=torch.float64)
        e[i] = 1e-6
        ahead, behind = (spo_plus(prediction.detach() + s * e, batch) for s in (1, -1))
        wanted = (ahead - behind) / 2e-6
        assert torch.allclose(gradient[:, i], wanted, rtol=0, atol=1e-6)


def test_spo_plus_is_zero_at_the_truth() -> None:
    batch = examples_of(synthetic(4, degree=1, noise=1.0, assets=4))
    assert spo_plus(batch.truth, batch).abs().max() < 1e-14


@pytest.mark.parametrize("method", [TWO_STAGE, SPO, FOLDED])
def test_training_lowers_the_regret_and_does_so_again(method, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, epochs=4, train=96, batch_size=8, hidden=16)
    found = []
    for place in ("a", "b"):
        journal = Journal(tmp_path / place, "job")
        journal.begin()
        found.append(train_one(config, Spec("train", TASK, method), journal))
        assert journal.epochs == 4
    first, second = found
    assert first["validation"] == second["validation"]
    assert first["regret"] == second["regret"] >= 0
    assert min(first["validation"]) < 0.9 * first["validation"][0]
    if method == FOLDED:
        assert first["certificates"]["masked"] == 0
        assert first["certificates"]["forward"] < 1e-10


def test_engine_and_accuracy_jobs_and_the_report(tmp_path: Path) -> None:
    pytest.importorskip("cvxpylayers")
    pytest.importorskip("diffcp")
    results: dict[str, Any] = {}
    for spec in plan(SMALL):
        if spec.method in ("clarabel", "gurobi") or spec.kind == "accuracy":
            continue
        journal = Journal(tmp_path, spec.key)
        journal.begin()
        results[spec.key] = STUDY.work(SMALL, spec.key, journal)
    # As they come back from their files.
    results = json.loads(json.dumps(results, default=lambda value: value.tolist()))
    batched, sqp = (results[f"engine-tau0.1-degree2-{name}-seed0"] for name in ("batched", "sqp"))
    # Two solvers, one training: the same decisions to what the less exact one allows.
    a, b = (torch.tensor(one["decisions"]) for one in (batched, sqp))
    assert (a - b).abs().max() < 1e-4
    assert batched["adjoints"]["worst"] < 1e-8  # Φ = 0
    data = synthetic(2, degree=2, noise=0.1, assets=5)
    row = {"solver": "batched", "scale": 1.0, **score(solve, folded_portfolio(solve), data)}
    accuracy = {"rows": [row], "reference": 1e-16, "programs": 2, "V": 1.0, "risk": 1.0}
    results["accuracy-tau0.1-degree2-seed0"] = accuracy
    written = STUDY.report(SMALL, results, tmp_path)
    assert written.verdict == "cannot be tested"  # without cvxpylayers
    assert all((tmp_path / figure.file).stat().st_size > 5000 for figure in written.figures)
    assert written.tables[0].rows[0][0] == "τ = 0.1, degree 2"


# cvxpylayers' own, with the numpy of today.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_cone_layer_is_exact_once_it_is_scaled_and_not_before() -> None:
    pytest.importorskip("cvxpylayers")
    pytest.importorskip("diffcp")
    data = synthetic(3, degree=1, noise=0.1)
    V, gamma = data.covariance[0], float(data.risk[0])
    tight = {"eps": 1e-9}
    raw, scaled = ConeLayer(V, gamma), ConeLayer(V, gamma, 1e6, solver_args=tight)
    bad, good = (score(layer, layer, data) for layer in (raw, scaled))
    assert good["worst"] < 1e-6
    assert good["gradient"] < 1e-3
    assert good["risk"] < 1 + 1e-5
    assert bad["worst"] > 0.1
    assert bad["risk"] > 2
    assert bad["gradient"] > 0.5


def test_score_counts_what_a_solver_calls_failed() -> None:
    data = synthetic(2, degree=1, noise=0.1, assets=4)

    def lost(c, V, gamma):
        found = engine_of("batched")(c, V, gamma)
        return found._replace(status=torch.tensor([0, 12]))

    row = score(lost, folded_portfolio(solve), data)
    assert row["failed"] == 1
    assert row["worst"] == 0


def test_a_refused_batch_is_counted_and_has_no_gradient(monkeypatch) -> None:
    pytest.importorskip("cvxpylayers")
    diffcp = pytest.importorskip("diffcp")
    data = synthetic(2, degree=1, noise=0.1, assets=4)
    layer = ConeLayer(data.covariance[0], float(data.risk[0]))

    def refuse(*args, **kwargs):
        raise diffcp.SolverError("no")

    monkeypatch.setattr(layer, "layer", refuse)
    c = data.returns.clone().requires_grad_()
    layer(c).sum().backward()
    assert layer.refused == 1
    assert c.grad is not None
    assert not c.grad.any()


def _trained(ours: float, raw: float, scaled: float) -> Any:
    def of(value: float) -> dict[int, dict[str, Any]]:
        return {seed: {"regret": value + 0.001 * seed} for seed in range(3)}

    return {
        (TASK, FOLDED): of(ours), (TASK, CONES): of(raw), (TASK, SCALED_CONES): of(scaled)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("regrets", "verdict"),
    [
        ((1.0, 9.0, 1.02), "partly reproduced"),
        ((1.0, 9.0, 3.0), "reproduced"),
        ((1.0, 1.01, 1.0), "not reproduced"),
        ((1.0, 0.5, 1.0), "not reproduced"),
        ((3.0, 9.0, 1.0), "partly reproduced"),
    ],
)
def test_verdict(regrets, verdict) -> None:
    trained = _trained(*regrets)
    assert judge(trained, {})[0] == verdict
    assert paired(trained, CONES, FOLDED) == pytest.approx([regrets[1] - regrets[0]] * 3)


def test_every_job_is_named_once() -> None:
    keys = [job.key for job in STUDY.jobs(Config())]
    assert len(set(keys)) == len(keys)
    # Two τ, six degrees and the S&P 500 by three methods and three seeds; cvxpylayers in addition.
    assert sum(key.startswith("train-") for key in keys) == (12 + 1) * 9 + 3 * 2 * 3
    assert all(job.alone for job in STUDY.jobs(Config()) if job.key.startswith("accuracy"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"assets": 1}, "assets must be at least 2"),
        ({"solver": "other"}, r"solver must be one of .*, got 'other'"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"degrees": ()}, "degrees must hold one number"),
        ({"noises": (0.1, -1.0)}, "noises must hold one number at least, all above 0"),
    ],
)
def test_bad_settings_are_refused(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**wrong)
