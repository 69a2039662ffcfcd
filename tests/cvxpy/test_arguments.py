"""What the CVXPY layer refuses, and in which words."""

from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

import pytest

cp: Any = pytest.importorskip("cvxpy", minversion="1.9")

import torch  # noqa: E402

from foldopt.cvxpy import CvxpyLayer  # noqa: E402
from tests.cvxpy_problems import F64  # noqa: E402


def small() -> tuple[Any, list[Any], list[Any]]:
    x, F, g = cp.Variable(2, name="x"), cp.Parameter((3, 2), name="F"), cp.Parameter(3, name="g")
    return cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g)), [x >= 0]), [F, g], [x]


def test_a_problem_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"problem must be a cvxpy.Problem, got str"):
        CvxpyLayer("a problem", [], [])  # pyright: ignore[reportArgumentType]


def test_a_problem_that_is_not_dpp() -> None:
    x, a, b = cp.Variable(), cp.Parameter(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.square(x - a * b)))
    with pytest.raises(ValueError, match=r"the problem is not DPP.*product of two parameters"):
        CvxpyLayer(problem, [a, b], [x])


def test_a_quadratic_form_of_a_parameter_in_a_constraint() -> None:
    x, P = cp.Variable(2), cp.Parameter((2, 2), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [cp.quad_form(x, P) <= 1])
    with pytest.raises(ValueError, match=r"quad_form\(x, P\).*only stand in the objective"):
        CvxpyLayer(problem, [P], [x])


def test_a_geometric_program_that_is_not_dpp() -> None:
    x, a = cp.Variable(pos=True), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Minimize(x), [x >= a + 1 / (1 - a)])
    with pytest.raises(ValueError, match=r"not DPP for geometric programming"):
        CvxpyLayer(problem, [a], [x], gp=True)


def test_parameters_that_are_missing_or_strange() -> None:
    problem, (F, g), variables = small()
    with pytest.raises(ValueError, match=r"exactly those of the problem.*missing: \['g'\]"):
        CvxpyLayer(problem, [F], variables)
    other = cp.Parameter(name="other")
    with pytest.raises(ValueError, match=r"not in the problem: \['other'\]"):
        CvxpyLayer(problem, [F, g, other], variables)
    with pytest.raises(ValueError, match=r"listed twice"):
        CvxpyLayer(problem, [F, g, g], variables)


@pytest.mark.parametrize("name", ["parameters", "variables"])
def test_what_is_no_list(name: str) -> None:
    problem, parameters, variables = small()
    given: dict[str, Any] = {"parameters": parameters, "variables": variables}
    given[name] = set(given[name])
    with pytest.raises(ValueError, match=rf"{name} must be a list or tuple, got set"):
        CvxpyLayer(problem, **given)


def test_a_variable_of_another_problem() -> None:
    problem, parameters, _ = small()
    with pytest.raises(ValueError, match=r"strange in variables is neither a variable.*nor a dual"):
        CvxpyLayer(problem, parameters, [cp.Variable(name="strange")])


def test_a_complex_variable() -> None:
    z, a = cp.Variable(2, complex=True, name="z"), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - a)))
    with pytest.raises(NotImplementedError, match=r"'z' is complex"):
        CvxpyLayer(problem, [a], [z])


def test_a_dual_that_cvxpy_writes_in_another_way() -> None:
    x, y, a = cp.Variable(2), cp.Variable(), cp.Parameter(2)
    cone = cp.PowConeND(x, y, [0.5, 0.5])
    problem = cp.Problem(cp.Maximize(y), [cone, x <= a])
    with pytest.raises(NotImplementedError, match=r"PowConeND"):
        CvxpyLayer(problem, [a], [cone.dual_variables[0]])


def test_solvers_that_are_not_there() -> None:
    problem, parameters, variables = small()
    with pytest.raises(cp.error.SolverError, match=r"'NOSUCH' is not installed.*CLARABEL"):
        CvxpyLayer(problem, parameters, variables, solver="NOSUCH")
    with pytest.raises(TypeError, match=r"solver must be the name of a CVXPY solver.*got int"):
        CvxpyLayer(problem, parameters, variables, solver=3)  # pyright: ignore[reportArgumentType]


def test_the_own_arguments() -> None:
    problem, parameters, variables = small()
    with pytest.raises(ValueError, match=r"on_failure must be one of"):
        CvxpyLayer(problem, parameters, variables, on_failure="ignore")  # pyright: ignore
    with pytest.raises(TypeError, match=r"certify must be a Certify"):
        CvxpyLayer(problem, parameters, variables, certify=1e-3)  # pyright: ignore


F, G = torch.zeros(3, 2, dtype=F64), torch.zeros(3, dtype=F64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((F,), r"got 1 tensors, expected 2"),
        ((F, G, G), r"got 3 tensors, expected 2"),
        ((F.mT, G), r"parameter 0 has shape \(2, 3\), expected \(3, 2\)"),
        ((F, G[:2]), r"parameter 1 has shape \(2,\), expected \(3,\)"),
        ((F.expand(4, 3, 2).mT, G), r"parameter 0 has shape \(4, 2, 3\), expected \(batch, 3, 2\)"),
        ((F[0], G), r"parameter 0 has 1 dimensions, expected 2 .* or 3 with one batch dimension"),
        ((F, G.expand(1, 1, 3)), r"parameter 1 has 3 dimensions, expected 1"),
        ((F.expand(4, 3, 2), G.expand(5, 3)), r"same batch size, got \[4, 5\]"),
    ],
)
def test_shapes_that_do_not_fit(values: tuple[torch.Tensor, ...], message: str) -> None:
    layer = CvxpyLayer(*small())
    with pytest.raises(ValueError, match=message):
        layer(*values)


def test_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"parameter 1 must be a tensor, got list"):
        CvxpyLayer(*small())(F, [1.0, 2.0, 3.0])  # pyright: ignore[reportArgumentType]


def test_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"parameter 1 holds NaN or inf"):
        CvxpyLayer(*small())(F, torch.full_like(G, torch.nan))


@pytest.mark.parametrize(
    ("solver", "message"),
    [("CLARABEL", r"Clarabel has no setting 'nosuch'"), ("SCS", r"SCS does not take these")],
)
def test_settings_that_do_not_exist(solver: str, message: str) -> None:
    layer = CvxpyLayer(*small(), solver=solver)
    with pytest.raises(TypeError, match=message):
        layer(F, G, solver_args={"nosuch": 1})


def test_without_cvxpy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "cvxpy":
            raise ImportError("no such package")
        return real(name, *rest, **more)

    for name in [name for name in sys.modules if name.startswith("foldopt.cvxpy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "fold-opt\[cvxpy\]"'):
        importlib.import_module("foldopt.cvxpy")
