"""The list of engines, the multipliers in a step's structure, and settings that all share."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import solvers, steps
from foldopt.operators import PrimalDual
from foldopt.solvers import _scipy
from tests.quadratic import F64, assert_slopes, random_program, solve


def test_every_engine_of_the_solvers_is_listed() -> None:
    listed = {(engine.solver, engine.name): engine for engine in solvers.available()}
    for name in ("piqp", "proxqp", "daqp", "osqp", "clarabel", "highs", "scs", "moreau"):
        assert ("QP", name) in listed
    for solver, name in (
        ("GlobalQP", "scip"), ("GlobalQP", "gurobi"), ("Conic", "clarabel"), ("Conic", "scs"),
        ("QCQP", "clarabel"), ("Ipopt", "casadi"), ("Ipopt", "ipyopt"), ("Ipopt", "cyipopt"),
        ("SQP", ""), ("ADMM", ""), ("FISTA", ""), ("FDPG", ""), ("ProjectedGradient", ""),
    ):  # fmt: skip
        assert (solver, name) in listed, (solver, name)
    assert all(hasattr(solvers, solver) for solver, _ in listed)
    for engine in listed.values():
        assert engine.problems
        assert engine.licence
        assert engine.workers in ("threads", "processes", "batched")
        assert engine.name == "" or engine.install.startswith("pip install ")
    assert "200" in listed["GlobalQP", "gurobi"].licence
    assert "2000" in listed["GlobalQP", "gurobi"].licence


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in solvers.available():
        package = engine.install.removeprefix("pip install ") or "fold-opt"
        if engine.version is None:
            with pytest.raises(importlib.metadata.PackageNotFoundError):
                importlib.metadata.version(package)
        else:
            assert engine.version == importlib.metadata.version(package)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {engine.version for engine in solvers.available() if engine.name} == {None}


SOLVERS: dict[str, Any] = {
    "QP": solvers.QP,
    "GlobalQP": solvers.GlobalQP,
    "QCQP": solvers.QCQP,
    "ADMM": solvers.ADMM,
    "FDPG": solvers.FDPG,
    "Conic": lambda **settings: solvers.Conic(solvers.Cones(nonnegative=1), **settings),
    "Ipopt": lambda **settings: solvers.Ipopt(lambda x: x @ x, n=1, **settings),
    "SQP": lambda **settings: solvers.SQP(lambda x: x @ x, n=1, **settings),
    "FISTA": lambda **settings: solvers.FISTA(
        lambda x: (x * x).sum(-1), lambda x, alpha: x, torch.zeros(1), **settings
    ),
    "ProjectedGradient": lambda **settings: solvers.ProjectedGradient(
        lambda x: (x * x).sum(-1), lambda x: x, torch.zeros(1), **settings
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_all_have_the_same_settings(name: str) -> None:
    build = SOLVERS[name]
    given = {
        "rtol": 1e-8, "atol": 1e-8, "max_iterations": 7, "time_limit": 3.5, "threads": 1,
        "executor": "serial", "warm_start": solvers.WarmStart(),
    }  # fmt: skip
    solver = build(**given)
    assert given == {key: getattr(solver, key) for key in given}
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.rtol = 0.1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("rtol", -1.0, "rtol must be a number of 0 or more or None, got -1.0"),
        ("rtol", "tight", "rtol must be"),
        ("atol", float("nan"), "atol must be"),
        ("time_limit", 0, "time_limit must be a number of seconds above 0 or None, got 0"),
        ("max_iterations", 0, "max_iterations must be an integer of 1 or more or None, got 0"),
        ("max_iterations", 2.5, "max_iterations must be"),
        ("threads", True, "threads must be an integer of 1 or more"),
        ("threads", None, "threads must be an integer of 1 or more, got None"),
    ],
)
def test_settings_are_checked(name: str, setting: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SOLVERS[name](**{setting: value})


def test_executor_and_warm_start_are_checked() -> None:
    with pytest.raises(TypeError, match="executor must be one of"):
        solvers.QP(executor="thread")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="warm_start must be a WarmStart"):
        solvers.QP(warm_start=3)  # type: ignore[arg-type]


# -- multipliers beside x ------------------------------------------------------------------------


def minimizer(Q: Tensor, *rest: Tensor) -> Tensor:
    return solve((Q + Q.mT) / 2, *rest).x


def test_with_multipliers_serves_steps_on_all_three() -> None:
    torch.manual_seed(0)
    blocks = random_program(3, n=5, m=7, k=2)
    found = solvers.with_multipliers(solvers.QP())(*blocks)
    for part, wanted in zip(found.x, solve(*blocks), strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-8, atol=1e-8)

    step = steps.newton_kkt(
        lambda x, Q, p, G, h, A, b: 0.5 * x @ Q @ x + p @ x,
        lambda x, Q, p, G, h, A, b: G @ x - h,
        lambda x, Q, p, G, h, A, b: A @ x - b,
    )
    layer = fo.FoldedLayer(solvers.with_multipliers(solvers.QP()), step)
    params = tuple(block.requires_grad_() for block in blocks)
    assert_slopes(minimizer, layer(*params).x, params)


def test_bounds_become_rows_in_their_order() -> None:
    Q, p = torch.eye(2, dtype=F64), torch.tensor([[-3.0, 2.0]], dtype=F64)
    with pytest.raises(ValueError, match=r"bounds hold x back.*bounds=True"):
        solvers.with_multipliers(solvers.QP())(Q, p, lower=0.0, upper=1.0)
    found = solvers.with_multipliers(solvers.QP(), bounds=True)(Q, p, lower=0.0, upper=1.0)
    assert isinstance(found.x, PrimalDual)
    torch.testing.assert_close(found.x.inequality, torch.tensor([[2.0, 0, 0, 2]], dtype=F64))
    # The step that has these rows leaves the point where it is.
    rows = torch.cat([torch.eye(2), -torch.eye(2)]).to(F64)
    side = torch.tensor([1.0, 1, 0, 0], dtype=F64)
    step = steps.newton_kkt(lambda x, p: 0.5 * x @ x + p @ x, lambda x, p: rows @ x - side)
    moved = step(found.x, p)
    torch.testing.assert_close(moved.x, found.x.x)
    torch.testing.assert_close(moved.inequality, found.x.inequality)
    # Bounds that do not touch x need no row.
    free = solvers.with_multipliers(solvers.QP())(Q, p, lower=-9.0)
    assert free.x.inequality.shape == (1, 0)


def test_with_multipliers_asks_for_them() -> None:
    with pytest.raises(TypeError, match=r"must return a Solution with Multipliers.*Tensor"):
        solvers.with_multipliers(lambda c: c)(torch.ones(1))  # type: ignore[arg-type,return-value]


def test_engines_solve_inside_an_operator() -> None:
    torch.manual_seed(1)
    blocks = random_program(2, n=4, m=5, k=1)
    params = tuple(block.requires_grad_() for block in blocks)
    for method in ("active_set", "admm"):
        found = fo.operators.quadratic_program(*params, method=method, solver=solvers.QP())
        assert_slopes(minimizer, found.x, params)
    infeasible = (*blocks[:2], torch.zeros(2, 1, 4, dtype=F64), -torch.ones(2, 1, dtype=F64))
    with pytest.raises(fo.FoldError, match="2 INFEASIBLE"):
        fo.operators.quadratic_program(*infeasible, solver=solvers.QP())


def test_scipy_is_loaded_late_and_missed_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("linalg", "optimize", "sparse", "sparse_linalg"):
        monkeypatch.delitem(vars(_scipy), name, raising=False)
        assert getattr(_scipy, name).__name__ == f"scipy.{name.replace('_', '.')}"
    with pytest.raises(AttributeError, match="has no attribute 'stats'"):
        _scipy.stats  # type: ignore[attr-defined]  # noqa: B018
    monkeypatch.delitem(vars(_scipy), "sparse")
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match=r'need scipy: pip install "fold-opt\[solvers\]"'):
        solvers.QP()(torch.eye(1), torch.ones(1))
