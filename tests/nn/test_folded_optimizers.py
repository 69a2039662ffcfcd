"""The paper's four folded optimizers: one answer, whichever way, and that of finite differences."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from tests.programs import CASES, F64, Case

HAS_QPTH = importlib.util.find_spec("qpth") is not None
needs_qpth = pytest.mark.skipif(not HAS_QPTH, reason="qpth is not installed")

WAYS: dict[str, Callable[[Case, Any], fo.nn.FoldedOptimizer]] = {
    "f_pgd_a": lambda case, solver: fo.nn.f_pgd_a(*functions(case), solver=solver),
    "f_pgd_a by qpth": lambda case, solver: fo.nn.f_pgd_a(
        *functions(case), solver=solver, method="qpth"
    ),
    "f_pgd_a, step size 0.3": lambda case, solver: fo.nn.f_pgd_a(
        *functions(case), solver=solver, step_size=0.3
    ),
    "f_pgd_b": lambda case, solver: fo.nn.f_pgd_b(*functions(case), solver=solver),
    "f_sqp": lambda case, solver: fo.nn.f_sqp(*functions(case), solver=solver),
    "f_sqp by ADMM": lambda case, solver: fo.nn.f_sqp(
        *functions(case), solver=solver, method="admm"
    ),
    "f_sqp by qpth": lambda case, solver: fo.nn.f_sqp(
        *functions(case), solver=solver, method="qpth"
    ),
    "f_sqp, step size 0.5": lambda case, solver: fo.nn.f_sqp(
        *functions(case), solver=solver, step_size=0.5
    ),
}


def functions(case: Case) -> tuple[Any, Any, Any]:
    return case.objective, case.inequality, case.equality


def gradients(layer: fo.nn.FoldedOptimizer, case: Case, weights: Tensor) -> list[Tensor]:
    params = [param.clone().requires_grad_() for param in case.params]
    x = layer(*params)
    return list(torch.autograd.grad((weights * x).sum(), params))


@pytest.fixture(scope="module")
def oracles() -> dict[tuple[str, int], tuple[Case, Tensor, Tensor, list[Tensor]]]:
    return {}


# A projected gradient step needs affine constraints.
PAIRS = [
    (name, way)
    for name in CASES
    for way in WAYS
    if not name.startswith("nonlinear") or "pgd" not in way
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_all_ways_agree_with_finite_differences(
    name: str, way: str, seed: int, oracles: dict[Any, Any]
) -> None:
    if "qpth" in way and not HAS_QPTH:
        pytest.skip("qpth is not installed")
    if (name, seed) not in oracles:
        torch.manual_seed(seed)
        case = CASES[name]()
        weights = torch.randn(len(case.params[0]), case.n, dtype=F64)
        solution = case.solve(*case.params)
        oracles[name, seed] = case, solution, weights, case.gradients_by_differences(weights)
    case, solution, weights, expected = oracles[name, seed]
    layer = WAYS[way](case, lambda *_: solution)
    for found, wanted in zip(gradients(layer, case, weights), expected, strict=True):
        scale = 1 + wanted.abs().max()
        assert float((found - wanted).abs().max() / scale) < 1e-6
