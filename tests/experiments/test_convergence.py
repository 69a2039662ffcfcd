"""The convergence study: a small run against closed forms, and what it writes."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from foldopt.experiments.convergence import measure
from foldopt.experiments.convergence.figure import FIGURES
from foldopt.experiments.convergence.measure import Result, adjoints, instance, run
from foldopt.experiments.convergence.nested import nested_unrolling
from foldopt.experiments.convergence.numbers import as_numbers, restored
from foldopt.experiments.convergence.plan import ADJOINTS, MEASUREMENTS, PARTS, Config
from foldopt.experiments.convergence.report import judge
from foldopt.experiments.convergence.study import STUDY
from foldopt.experiments.frame.journal import plain
from foldopt.experiments.frame.runner import Run
from foldopt.experiments.frame.runner import run as run_study
from foldopt.experiments.frame.study import quickly

SMALL = Config(n=20, k=3, step_size=0.06, iterations=80, step_sizes=7, inner=(2, 10, 60))


@pytest.fixture(scope="module")
def parts() -> list[str]:
    """What the run below calls its progress with."""
    return []


@pytest.fixture(scope="module")
def result(parts: list[str]) -> Result:
    return run(SMALL, parts.append)


# -- what is measured ------------------------------------------------------------------------------


def test_one_rate_forward_and_backward(result: Result) -> None:
    rate = -math.log(result.radius)
    assert result.radius == pytest.approx(result.analytic_radius, rel=1e-9)
    assert result.from_solution.fitted_rate() == pytest.approx(rate, rel=0.05)
    assert result.from_random.fitted_rate("forward") == pytest.approx(rate, rel=0.1)
    assert result.from_random.fitted_rate() == pytest.approx(rate, rel=0.1)
    assert float(result.from_solution.forward.max()) < 1e-14


def test_the_backward_pass_lags(result: Result) -> None:
    assert len(result.lag) >= 4
    late = [row for row in result.lag if row.tolerance <= 1e-3]
    assert all(row.forward <= row.tolerance for row in result.lag)
    assert all(row.backward > 1.2 * row.forward for row in late), late


def test_step_sizes(result: Result) -> None:
    assert result.tuned.step_size == pytest.approx(result.analytic_step_size, rel=0.02)
    for row in result.step_sizes:
        assert math.isinf(row.predicted) == (row.radius >= 1)
        assert math.isinf(row.counted) == (row.radius >= 1)
        if row.radius < 0.97:
            # The prediction leaves out a factor in front of ρ^k, at most some iterations' worth.
            assert row.counted <= row.predicted + 2
            assert row.counted >= 0.4 * row.predicted
    assert any(row.radius > 1 for row in result.step_sizes)
    # Past the bound the gradient of an unfolding explodes, however well the forward pass stands.
    backward = result.exploded["from the solution, 1.3 × the bound: backward"]
    forward = result.exploded["from the solution, 1.3 × the bound: forward"]
    assert backward[40] > 1e3
    assert forward[40] < 1e-6


def test_krylov_methods_need_fewer_products(result: Result) -> None:
    curves = result.from_solution.adjoints
    counts = {name: curve.first_below(1e-6) for name, curve in curves.items()}
    lfpi, gmres, bicgstab = (counts[name] for name in ("LFPI", "GMRES", "BiCGSTAB"))
    assert lfpi is not None
    assert gmres is not None
    assert bicgstab is not None
    assert gmres < bicgstab < lfpi


def test_the_start_changes_the_delay_and_not_the_rate(result: Result) -> None:
    assert result.starts[0].distance == 0
    nearest = result.starts[0].backward_iterations
    assert nearest is not None
    for row in result.starts:
        assert row.backward_rate == pytest.approx(1, rel=0.15), row
        assert row.backward_iterations is not None
        assert row.backward_iterations >= nearest - 1


def test_nested_unrolling_has_a_floor_and_folding_has_none(result: Result) -> None:
    unrolled = [row for row in result.nested if row.name == "unrolled"]
    folded = [row for row in result.nested if row.name == "folded"]
    errors = [row.backward for row in unrolled]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert folded[-1].backward < 1e-9
    held = [row.megabytes for row in unrolled]
    assert held == sorted(held)
    assert held[-1] > held[0]


def test_what_a_folded_inner_loop_holds_does_not_grow() -> None:
    problem, c, loss = instance(SMALL)
    x = problem.solve(c)
    rows = nested_unrolling(problem, 0.05, x, c, loss, (60, 600), outer=2)
    unrolled = [row.megabytes for row in rows if row.name == "unrolled"]
    folded = [row.megabytes for row in rows if row.name == "folded"]
    assert folded[0] == folded[1]
    # Of each of the 540 further iterations at least the two masks of a clip, a byte an entry.
    assert unrolled[1] >= unrolled[0] + 540 * 2 * 20 / 1e6


def test_the_layers(result: Result) -> None:
    found = {layer.name: layer for layer in result.layers}
    assert {name[:2] for name in found} == {"E0", "E1", "E2", "E3", "E4", "E5"}
    for name, layer in found.items():
        assert math.isfinite(layer.gmres), name
        if "f-SQP, α = 1" in name:
            assert layer.radius < 1e-9
            assert layer.adjoint == "Auto: identity"
        elif "f-SQP" in name:
            alpha = float(name.rsplit(" ", 1)[1])
            assert layer.radius == pytest.approx(1 - alpha, abs=1e-6)
        elif "f-FDPG" in name:
            assert 0.5 < layer.radius < 1
        if layer.best:
            assert layer.best[1] <= layer.radius + 1e-9


# -- what is written -------------------------------------------------------------------------------


def test_what_a_job_writes_is_what_was_measured(result: Result) -> None:
    """Through JSON and back, infinities and missing numbers included."""
    written = json.loads(json.dumps(plain(as_numbers(result)), allow_nan=False))
    again = restored(SMALL, written)
    for field in dataclasses.fields(Result):
        mine, theirs = getattr(result, field.name), getattr(again, field.name)
        if field.name in ("from_solution", "from_random"):
            assert mine.as_dict() == theirs.as_dict()
            assert mine.fitted_rate() == theirs.fitted_rate()
        elif field.name == "exploded":
            assert list(mine) == list(theirs)
            for name, values in mine.items():
                assert theirs[name] == pytest.approx(values)
        else:
            assert repr(mine) == repr(theirs), field.name  # NaN is not equal to itself
    assert math.isinf(again.step_sizes[-1].predicted)
    assert math.isnan(again.starts[0].forward_rate)


@pytest.fixture(scope="module")
def results(result: Result) -> dict[str, Any]:
    found = {MEASUREMENTS: as_numbers(result), ADJOINTS: adjoints(SMALL)}
    return json.loads(json.dumps(plain(found)))


def test_the_adjoint_systems_have_the_radius_of_the_step(
    result: Result, results: dict[str, Any]
) -> None:
    found = results[ADJOINTS]
    assert found["worst"] == pytest.approx(result.radius, rel=1e-9)
    for name in ("GMRES", "Dense"):
        assert found["solvers"][name]["error"] < 1e-8
        assert found["solvers"][name]["failed"] == 0


def test_the_report(result: Result, results: dict[str, Any], tmp_path: pathlib.Path) -> None:
    said = STUDY.report(SMALL, results, tmp_path)
    assert said.verdict == "reproduced"
    text = " ".join(table.title for table in said.tables)
    for title in ("Figure 3", "(a)", "(b)", "(c)", "(d)", "Question 1", "Question 2", "adjoint"):
        assert title in text
    assert len(said.findings) == 4
    ratio = max(row.backward / row.forward for row in result.lag)
    assert f"{ratio:.0f} times worse" in said.findings[1]
    assert "nan" not in " ".join([said.why, said.ran, *said.findings])
    layers = next(table for table in said.tables if "Question 2" in table.title)
    assert [row[0] for row in layers.rows] == [layer.name for layer in result.layers]
    assert [figure.file for figure in said.figures] == [f"{name}.png" for name in FIGURES]
    for figure in said.figures:
        assert (tmp_path / figure.file).read_bytes().startswith(b"\x89PNG")


def test_the_verdict_follows_the_numbers(result: Result) -> None:
    assert judge(result)[0] == "reproduced"
    stable = [row for row in result.step_sizes if row.radius < 1]
    verdict, why = judge(dataclasses.replace(result, step_sizes=stable))
    assert verdict == "partly reproduced"
    assert f"Of {len(stable)} step sizes, 0 have" in why
    # Another rate than the theorem's, and no lead over the random start.
    swapped = dataclasses.replace(
        result,
        from_solution=result.from_random,
        from_random=result.from_solution,
        radius=result.radius**2,
        step_sizes=stable,
    )
    assert judge(swapped)[0] == "not reproduced"


def test_the_jobs_are_done_by_the_study(
    monkeypatch: pytest.MonkeyPatch, result: Result, parts: list[str], tmp_path: pathlib.Path
) -> None:
    assert parts == list(PARTS)

    def measured(config: Config, progress: Callable[[str], None]) -> Result:
        assert config == SMALL
        for part in parts:
            progress(part)
        return result

    monkeypatch.setattr(measure, "run", measured)
    given = Run(STUDY, SMALL, tmp_path / "convergence")
    run_study(given, workers=1)
    found = given.results()
    assert set(found) == {MEASUREMENTS, ADJOINTS}
    assert given.jobs[-1].key == ADJOINTS  # timed, and so alone
    assert given.done() == sum(job.work for job in given.jobs)
    lines = given.journal(given.jobs[0]).lines()
    assert [line["part"] for line in lines if "part" in line] == parts
    assert found[MEASUREMENTS] == plain(as_numbers(result))
    assert Config(**quickly(Config)).n < Config().n
