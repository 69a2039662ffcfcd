"""What the Newton, KKT and SQP steps refuse, and what they say then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import steps
from tests.kkt import ball, build, fold_lowest, linear, lowest
from tests.programs import F64

ANY: dict[str, Any] = {
    "newton": steps.newton,
    "newton_kkt": steps.newton_kkt,
    "sqp": steps.sqp,
    "multipliers": steps.multipliers,
}
X, C = torch.ones(2, 3), torch.ones(2, 3)
Z = X, torch.zeros(2, 1), torch.zeros(2, 0)


@pytest.mark.parametrize("name", ANY)
def test_arguments_of_another_kind(name: str) -> None:
    make = ANY[name]
    with pytest.raises(TypeError, match="objective must be callable, got str"):
        make("f")
    for shared in (1, ("a",)):
        with pytest.raises(TypeError, match=r"shared must be a sequence of positions such as"):
            make(linear, shared=shared)
    if name != "newton":
        with pytest.raises(TypeError, match="inequality must be callable, got int"):
            make(linear, 3)
        with pytest.raises(TypeError, match="equality must be callable, got list"):
            make(linear, ball, [ball])


@pytest.mark.parametrize("name", ["newton", "newton_kkt", "sqp"])
def test_step_size_of_another_kind_or_size(name: str) -> None:
    for alpha in ("1", True, torch.tensor(0.5)):
        with pytest.raises(TypeError, match="step_size must be a number"):
            ANY[name](linear, step_size=alpha)
    for alpha in (0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="step_size must be above 0 and at most 1"):
            ANY[name](linear, step_size=alpha)


def test_method_of_sqp() -> None:
    wrong: Any = "newton"
    with pytest.raises(ValueError, match=r"steps\.sqp: method must be one of .*, got 'newton'"):
        steps.sqp(linear, method=wrong)


@pytest.mark.parametrize("name", ["newton_kkt", "sqp"])
@pytest.mark.parametrize("z", [X, (X, X), [X] * 4])
def test_a_state_of_another_kind(name: str, z: Any) -> None:
    says = rf"steps\.{name}: the state is .*got {type(z).__name__}; steps\.multipliers finds"
    with pytest.raises(TypeError, match=says):
        ANY[name](linear, ball)(z, C, torch.ones(2))


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"objective": lambda x, c: c * x}, r"objective.*must return one number; it returned \(3,\)"),
    ({"objective": lambda x, c: 0.0}, "objective.*must return one number; it returned float"),
    ({"inequality": lambda x, c: x.outer(c)}, r"inequality.*vector.*it returned \(3, 3\)"),
    ({"inequality": lambda x, c: 1.0}, "inequality.*vector.*it returned float"),
    ({"equality": lambda x, c: [x, 1.0]}, "equality.*vector.*it returned list"),
]


@pytest.mark.parametrize("name", ["newton_kkt", "sqp", "multipliers"])
@pytest.mark.parametrize(("fault", "says"), FAULTS)
def test_functions_that_return_something_else(name: str, fault: dict[str, Any], says: str) -> None:
    given = {"objective": lambda x, c: c @ x, **fault}
    with pytest.raises(ValueError, match=rf"steps\.{name}: {says}"):
        ANY[name](**given)(X if name == "multipliers" else Z, C)


@pytest.mark.parametrize("name", ANY)
def test_params_without_a_row_for_each_sample(name: str) -> None:
    z = Z if "multipliers" not in name and name != "newton" else X

    def call(x: Any, param: Tensor, **options: Any) -> Any:
        return ANY[name](lambda y, c: (c.sum() * y).sum(), **options)(x, param)

    says = r"param 0 has shape \(3, 3\), and x \(2, 3\).*shared=\(0,\) if all samples share"
    with pytest.raises(ValueError, match=says):
        call(z, torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"shared=\(1,\): there are 1 param\(s\), and none has"):
        call(z, C, shared=[1])
    deep = X[None] if z is X else (X[None], *Z[1:])
    with pytest.raises(ValueError, match=r"x must have shape \(n,\) or \(B, n\), got \(1, 2, 3\)"):
        call(deep, C)


def test_a_solution_that_is_none() -> None:
    c = torch.randn(2, 3, dtype=F64, requires_grad=True)
    away = lowest(c.detach() + 0.3, 1.0)
    for name in ("newton_kkt", "sqp"):
        with pytest.raises(fo.FoldError, match="the step does not leave the solver's answer"):
            fo.fold(build(name, linear, ball), away, c, 1.0)
    step = steps.newton(lambda x, c: (x.exp() - c * x).sum())
    with pytest.raises(fo.FoldError, match="the step does not leave the solver's answer"):
        fo.fold(step, torch.ones(2, 3, dtype=F64), c)
    assert torch.isfinite(fold_lowest(build("sqp", linear, ball), c, 1.0).x).all()
