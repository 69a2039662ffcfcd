"""benchmarks/scale.py: its cost model, its jobs at tiny sizes, its file and its page."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
from typing import Any

import pytest
import torch

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
TERMS = ("overhead", "sample", "work", "message", "bytes")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of benchmarks/, as they import one another."""
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


# -- the cost model --------------------------------------------------------------------------------


def planted(model: Any) -> tuple[list[Any], Any]:
    """Sizes that tell all terms apart, and coefficients."""
    sizes = [
        model.Size(n, batch, workers, 1.0, workers > 1, 8.0 * n * batch * (workers > 1))
        for n in (10, 40, 100)
        for batch in (1, 16, 100, 1000)
        for workers in (1, 2)
    ]
    coefficients = dict(zip(TERMS, (2e-3, 3e-6, 4e-8, 5e-3, 6e-9), strict=True))
    return sizes, model.Fit(coefficients, 1.6)


def test_the_fit_finds_coefficients_and_power(use: Any) -> None:
    model = use("_scale_model")
    sizes, truth = planted(model)
    found = model.fit(sizes, [truth.seconds(size) for size in sizes], TERMS)
    assert found.power == 1.6
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)


def test_no_coefficient_is_negative(use: Any) -> None:
    model = use("_scale_model")
    sizes, _ = planted(model)
    noise = torch.rand(len(sizes), generator=torch.Generator().manual_seed(0)) + 0.5
    found = model.fit(sizes, noise.tolist(), TERMS)
    assert min(found.coefficients.values()) >= 0


def test_the_fit_refuses_what_is_no_time(use: Any) -> None:
    model = use("_scale_model")
    for seconds in ([], [0.0]):
        with pytest.raises(ValueError, match="needs times above 0"):
            model.fit([model.Size(1)][: len(seconds)], seconds, ("overhead",))


def test_seconds_are_as_the_formula_says(use: Any) -> None:
    model = use("_scale_model")
    every = dict(zip(model.TERMS, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), strict=True))
    size = model.Size(9, batch=5, workers=2, iterations=10.0, remote=True, moved=11.0)
    # overhead + k pass + ⌈B/W⌉ k (sample + work n^p) + B serial + message + bytes
    assert model.Fit(every, 0.5).seconds(size) == 1 + 20 + 3 * 10 * (3 + 4 * 3) + 25 + 6 + 77
    alone = dataclasses.replace(size, workers=1, remote=False)
    assert model.Fit(every, 0.5).seconds(alone) == 1 + 20 + 5 * 10 * (3 + 4 * 3) + 25


def test_iterations_are_the_usual_ones_unless_given(use: Any) -> None:
    model = use("_scale_model")
    fits = {
        "forward": model.Fit({"work": 1.0}, 1.0),
        "backward": model.Fit({"work": 1.0}, 1.0, iterations=50.0),
    }
    assert model.predict(fits, model.Size(10)) == {"forward": 10.0, "backward": 500.0}
    given = model.Size(10, iterations=3.0)
    assert model.predict(fits, given) == {"forward": 10.0, "backward": 30.0}


def test_sizes_inside_and_beyond_are_left_out(use: Any) -> None:
    model = use("_scale_model")
    sizes = [model.Size(n, workers=w) for n in (1, 10, 100, 1000, 10_000) for w in (1, 2)]
    inside, beyond = model.held_out(sizes)
    assert {sizes[index].n for index in inside} == {100}
    assert {sizes[index].n for index in beyond} == {10_000}
    assert len(inside) == len(beyond) == 2
    assert model.held_out(sizes[:6]) == (set(), set())


def test_errors_are_those_of_sizes_that_the_fit_has_not_seen(use: Any) -> None:
    model = use("_scale_model")
    sizes = [model.Size(n) for n in (10, 100, 1000, 10_000, 100_000)]
    seconds = [1e-3 + 1e-6 * size.n for size in sizes]
    seconds[2] *= 2  # inside: predicted at half of what was measured
    seconds[4] /= 4  # beyond: at four times
    found = model.errors(sizes, seconds, ("overhead", "work"))
    assert found.inside == pytest.approx([0.5], rel=1e-6)
    assert found.beyond == pytest.approx([3.0], rel=1e-6)


# -- the jobs --------------------------------------------------------------------------------------


def gradient_and_differences(layer: Any, differentiable: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of Σx² in the first entries of each leaf."""
    _, _, _, gradients = differentiable(layer, "cpu")
    found, expected, h = [], [], 1e-5
    for place, gradient in enumerate(gradients):
        for entry in range(min(4, gradient.numel())):
            sides = []
            for sign in (1, -1):
                leaves = [leaf.detach().clone() for leaf in layer.leaves]
                leaves[place].view(-1)[entry] += sign * h
                sides.append(float(layer.function(*leaves).square().sum()))
            found.append(gradient.reshape(-1)[entry])
            expected.append((sides[0] - sides[1]) / (2 * h))
    return torch.stack(found), torch.tensor(expected, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "job"),
    [
        ("smooth_image", {"case": "image", "n": 64}),
        ("exact_image", {"case": "image", "n": 64}),
        ("interior_image", {"case": "image", "n": 64}),
        ("quadratic", {"case": "qp", "n": 4, "batch": 3}),
        ("simplex", {"case": "simplex", "n": 4, "batch": 3}),
    ],
)
def test_the_gradient_that_is_timed_is_right(use: Any, make: str, job: dict[str, Any]) -> None:
    layers = use("_scale_layers")
    layer = getattr(layers, make)(layers.Job(**job))
    found, expected = gradient_and_differences(layer, layers.differentiable)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_equilibrium_is_one_and_its_gradient_solves_the_dense_system(use: Any) -> None:
    layers = use("_scale_layers")
    layer = layers.equilibrium(layers.Job("equilibrium", 30))
    (c,) = layer.leaves
    x = layer.function(c)
    torch.testing.assert_close(x, torch.tanh(layers.neighbours(x) + c))
    K = layers.neighbours(torch.eye(30, dtype=torch.float64)).T  # k * x = K x
    D = torch.diag(1 - x[0] ** 2)
    v = torch.linalg.solve((torch.eye(30).double() - D @ K).T, 2 * x[0])
    _, _, _, (gradient,) = layers.differentiable(layer, "cpu")
    torch.testing.assert_close(gradient[0], D @ v, rtol=1e-9, atol=1e-9)


def test_a_row_has_what_the_tables_need(use: Any) -> None:
    jobs = use("_scale_jobs")
    row = jobs.measure(jobs.Job("equilibrium", 200))
    assert row["forward"] > 0
    assert row["backward"] > 0
    assert row["iterations"] > 1
    assert row["residual"] < 1e-10
    assert row["memory"] >= 0
    json.dumps(row)


def test_every_part_of_a_case_that_is_modelled_has_known_terms(use: Any) -> None:
    jobs, model = use("_scale_jobs"), use("_scale_model")
    for case in jobs.CASES.values():
        assert case.group in jobs.GROUPS
        assert {term for terms in case.terms.values() for term in terms} <= set(model.TERMS)
    keys = [job.key for case in jobs.CASES.values() for job in case.jobs]
    assert len(keys) == len(set(keys))


# -- the file, the prediction and the page ---------------------------------------------------------


def made_up(job: Any) -> dict[str, Any]:
    both = {"forward": 1e-3 + 1e-7 * job.n * job.batch, "backward": 2e-3}
    return {**both, "iterations": 7, "method": "CG", "residual": 1e-12, "memory": 100 * job.n}


def test_what_is_measured_is_not_measured_again(
    use: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    store, jobs = use("_scale_store"), use("_scale_jobs")
    seen: list[int] = []

    def run(job: Any) -> dict[str, Any]:
        seen.append(job.n)
        return {"error": "no memory"} if len(seen) == 2 else made_up(job)

    monkeypatch.setattr(store, "in_a_process", run)
    todo = [jobs.Job("image", 100), jobs.Job("image", 400)]
    assert "error" in store.measure_all(todo, tmp_path)[todo[1].key]
    rows = store.measure_all(todo, tmp_path)
    assert seen == [100, 400, 400]  # what failed is tried again
    assert rows[todo[1].key]["forward"] == made_up(todo[1])["forward"]
    assert {"load", "machine", "wall"} <= set(rows[todo[0].key])
    store.measure_all(todo, tmp_path, again=True)
    assert seen == [100, 400, 400, 100, 400]


def test_a_job_that_fails_says_why(use: Any) -> None:
    store, jobs = use("_scale_store"), use("_scale_jobs")
    assert "nothing like it" in store.in_a_process(jobs.Job("nothing like it", 1))["error"]


def test_prediction_and_page_from_made_up_rows(
    use: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, scale, page = use("_scale_store"), use("scale"), use("_scale_page")
    monkeypatch.setattr(store, "in_a_process", made_up)
    options = ["--folder", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"figures.json is not there: run"):
        scale.main([*options, "predict", "--n", "20"])
    text = "\n".join(f"<!-- table: {name} -->\n<!-- end -->" for name in page.TABLES)
    monkeypatch.setattr(scale, "PAGE", tmp_path / "scale.md")
    scale.PAGE.write_text(text)

    scale.main([*options, "batch"])
    scale.main([*options, "fit"])
    scale.main([*options, "page"])
    capsys.readouterr()
    scale.main([*options, "predict", "--case", "qp", "--n", "20", "--batch", "3e5"])
    said = capsys.readouterr().out
    # 1 ms + 1e-7 · 20 · 3e5 = 601 ms forward, 2 ms backward
    assert float(said.split("in all")[1].split()[0]) == pytest.approx(0.603, rel=0.02)
    assert "Beyond what was measured: n 50, batch 100000, workers 1" in said

    written = scale.PAGE.read_text()
    assert "| `nn.QP` | 20 | 100,000 | 201 ms | 2 ms |" in written
    assert "No GPU was at hand" in written
    scale.main([*options, "page"])
    assert scale.PAGE.read_text() == written

    with pytest.raises(SystemExit, match=r"run `scale\.py parallel`"):
        scale.main([*options, "predict", "--case", "qp", "--n", "20", "--workers", "4"])
    with pytest.raises(SystemExit, match="--case dask: no figures"):
        scale.main([*options, "predict", "--case", "dask", "--n", "20"])


def test_a_page_without_a_mark_is_refused(use: Any, tmp_path: pathlib.Path) -> None:
    page = use("_scale_page")
    (tmp_path / "scale.md").write_text("nothing")
    with pytest.raises(ValueError, match="needs the marks of table 'conditions' once, has 0"):
        page.write(tmp_path / "scale.md", {}, {})


def test_the_page_has_every_mark(use: Any) -> None:
    text = (BENCHMARKS.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    for name in use("_scale_page").TABLES:
        assert text.count(f"<!-- table: {name} -->") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said(use: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match="--gpu: no GPU is at hand"):
        use("scale").main(["--folder", str(tmp_path), "batch", "--gpu"])
