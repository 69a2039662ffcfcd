"""What the nonlinear program layer says of samples that are not solved, and of wrong calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status
from foldopt.nn.nlp import NLP, NLPSolution
from tests.nlp import F64, distance, rows


def status_of(found: Any) -> list[int]:
    assert isinstance(found, NLPSolution)
    return found.status.tolist()


def squeezed(x: Tensor, p: Tensor) -> list[Tensor]:
    """1 ≤ x ≤ p."""
    return [x - p, 1 - x]


# -- samples that are not solved ------------------------------------------------------------------

UNSOLVED: dict[str, tuple[dict[str, Any], Tensor, Status, str]] = {
    "infeasible": (
        {"objective": lambda x, p: x @ x, "inequality": squeezed, "start": rows(1.0)},
        rows(2.0, 0.0), Status.INFEASIBLE, "INFEASIBLE",
    ),
    "crossed bounds": (
        {"objective": lambda x, p: x @ x, "bounds": (1.0, lambda p: p), "n": 1},
        rows(2.0, 0.0), Status.INFEASIBLE, "lower > upper",
    ),
    "out of iterations": (
        {
            "objective": lambda x, p: (1 - x[0]) ** 2 + p * (x[1] - x[0] ** 2) ** 2,
            "start": rows(1.0, 1.1), "max_iterations": 4,
        },
        rows(1.0, 1e6), Status.MAX_ITERATIONS, "Maximum_Iterations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOLVED)
def test_a_sample_that_is_not_solved(name: str) -> None:
    options, p, code, word = UNSOLVED[name]
    with pytest.raises(FoldError, match=word):
        NLP(**options, executor="serial")(p)
    layer = NLP(**options, executor="serial", on_failure="mask", multipliers=True)
    p = p.clone().requires_grad_()
    found = layer(p)
    assert status_of(found) == [Status.CONVERGED, code]
    (gradient,) = torch.autograd.grad(found.x[0].sum(), p, retain_graph=True)
    assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(torch.nan_to_num(found.x).sum(), p)
    assert gradient[1] == 0


def test_an_answer_that_solves_another_program() -> None:
    layer = NLP(lambda x, p: (x[0] - p) ** 2, solver=lambda p: p[:, None] + 0.5)
    with pytest.raises(FoldError, match="leads away from its answer") as error:
        layer(rows(0.0, 3.0))
    assert error.value.status is not None
    assert error.value.status.tolist() == [Status.INACCURATE, Status.INACCURATE]


def test_a_feasible_set_without_multipliers() -> None:
    """Min x s.t. x² ≤ 0: x = 0, but no multiplier can balance the gradient."""
    layer = NLP(
        lambda x, p: p * x[0], lambda x, p: x[0] ** 2, solver=lambda p: torch.zeros(1, 1, dtype=F64)
    )
    with pytest.raises(FoldError, match="no multipliers exist there"):
        layer(rows(1.0))


def test_params_that_are_no_numbers() -> None:
    p = rows(1.0, math.nan)
    with pytest.raises(ValueError, match="param 0 holds nan at"):
        NLP(lambda x, p: (x[0] - p) ** 2, n=1)(p)
    layer = NLP(lambda x, p: (x[0] - p) ** 2, n=1, on_failure="mask", multipliers=True)
    p = p.requires_grad_()
    with fo.record() as seen:
        found = layer(p)
    assert status_of(found) == [Status.CONVERGED, Status.NONFINITE]
    assert "nan" in seen[0].messages[1]
    (gradient,) = torch.autograd.grad(found.x[0].sum(), p)
    assert torch.allclose(gradient, rows(1.0, 0.0), atol=1e-12)


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"objective": 3}, TypeError, "objective"),
        ({"bounds": 3.0}, TypeError, "bounds must be a pair"),
        ({"bounds": ("low", None)}, TypeError, "lower must be None"),
        ({"bounds": (rows((0.0,)), None)}, ValueError, "lower must be a floating tensor"),
        ({"bounds": (None, rows(1.0).requires_grad_())}, ValueError, "upper requires grad"),
        ({"solver": "snopt"}, ValueError, "solver must be"),
        ({"sparse": "yes"}, ValueError, "sparse must be"),
        ({"solver": "sqp", "options": {"tol": 1}}, ValueError, "options are Ipopt's"),
        ({"degenerate": "ignore"}, ValueError, "degenerate must be"),
        ({"damping": 0.0}, ValueError, "damping must be above 0"),
        ({"starts": 0}, ValueError, "starts must be an integer"),
        ({"starts": 2, "warm_start": True}, ValueError, "warm_start=True begins at one point"),
        ({"start": [1.0]}, TypeError, "start must be a floating tensor"),
        ({"start": rows(math.inf)}, ValueError, "not finite"),
        ({"n": 0}, ValueError, "n must be"),
        ({"on_failure": "hope"}, ValueError, "on_failure"),
        ({"batch_dims": -1}, ValueError, "batch_dims"),
    ],
)
def test_wrong_construction(options: dict[str, Any], error: type[Exception], word: str) -> None:
    given: dict[str, Any] = {"objective": distance, **options}
    with pytest.raises(error, match=word):
        NLP(**given)


def test_wrong_calls() -> None:
    p = rows(1.0, 2.0)
    with pytest.raises(ValueError, match="number of variables is unknown"):
        NLP(distance)(p)
    with pytest.raises(ValueError, match="number of variables differs: 2 in n or bounds, 1 in st"):
        NLP(distance, n=2)(p, start=rows(0.0))
    with pytest.raises(ValueError, match="start or starts, not both"):
        NLP(distance, n=1)(p, start=rows(0.0), starts=rows((0.0,)))
    with pytest.raises(ValueError, match="fits no batch"):
        NLP(distance, n=1)(p, start=torch.zeros(3, 1))
    with pytest.raises(TypeError, match="starts must be"):
        NLP(distance, n=1)(p, starts=rows(0.0))
    with pytest.raises(ValueError, match="begins where it likes"):
        NLP(distance, solver=lambda p: p)(p, start=rows(0.0))
    with pytest.raises(ValueError, match=r"param 1 has shape \(3,\).*shared=\(1,\)"):
        NLP(lambda x, p, q: x @ x, n=1)(p, torch.ones(3))
    with pytest.raises(ValueError, match="none has number 4"):
        NLP(distance, n=1, shared=(4,))(p)
    with pytest.raises(ValueError, match="upper has shape"):
        NLP(distance, bounds=(rows(0.0, 1.0), rows(1.0, 1.0, 1.0)))(p)
    with pytest.raises(ValueError, match=r"upper\(\*params\) gets one sample"):
        NLP(distance, bounds=(None, lambda p: torch.zeros(3)), n=1)(p)
    with pytest.raises(ValueError, match="objective"):
        NLP(lambda x, p: x * p, n=2)(p)
    with pytest.raises(ValueError, match=r"objective.*returned \(0,\)"):  # a param without entries
        NLP(lambda x, p: (x - p).square().sum(-1), n=1)(torch.zeros(1, 0, 1, dtype=F64))
    weight = rows(2.0).requires_grad_()
    layer = NLP(lambda x, p: (weight * (x - p) ** 2).sum(), n=1)
    with pytest.raises(FoldError, match="not among its params"):
        layer(p.requires_grad_())
