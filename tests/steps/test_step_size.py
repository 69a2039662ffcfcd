"""Step sizes that are chosen where a step is evaluated, and those that follow from the params."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt import projections, prox, steps
from tests.descent import BUILD, F64, family, l2, quadratic, radius, spd


def per_sample(c: Tensor, Q: Tensor) -> Tensor:
    """1/λ_max of each sample, ``(*batch, 1)``."""
    return 1 / torch.linalg.matrix_norm(Q, 2).unsqueeze(-1)


SIZES: dict[str, Any] = {"auto": "auto", "function": per_sample}


def curved(x: Tensor, c: Tensor, Q: Tensor) -> Tensor:
    return quadratic(x, c, Q) + 0.1 * (x**4).sum(-1) + 0.1 * torch.cos(x.sum(-1) + c.sum(-1))


STEPS: dict[str, Any] = {
    "gradient": lambda a: steps.gradient(curved, a),
    "projected": lambda a: steps.projected_gradient(curved, projections.simplex, a),
    "proximal": lambda a: steps.proximal_gradient(curved, lambda y, a: prox.l1(y, 0.2 * a), a),
}


def solved(name: str, samples: int = 3, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """x*, c and Q."""
    c, Q = torch.randn(samples, n, dtype=F64), spd(samples, n, 5.0)
    x = fo.fixed_point(STEPS[name](0.15), torch.zeros_like(c), c, Q, rtol=1e-14)
    return x.detach(), c, Q


# -- what it chooses -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BUILD)
def test_auto_is_as_good_as_the_tuned_step_size(kind: str) -> None:
    for n in (4, 12, 25):
        problem = family(kind, n=n)
        tuned = fo.tune_step_size(problem.make_step, problem.x, *problem.params)
        found = radius(problem.make_step("auto"), problem.x, *problem.params)
        if n <= 12:  # as many products as dimensions
            assert found <= tuned.radius + 0.015 * (1 - tuned.radius)
        assert found < 1
        assert math.log(tuned.radius + 1e-9) / math.log(found + 1e-9) < 1.15


def test_auto_knows_the_curvature_of_an_operator() -> None:
    """Near x = 0 the l2 norm bends more than the objective: 2/(μ_min + μ_max) is far off."""
    h = torch.tensor([1.0, 2.0, 6.0, 9.0], dtype=F64)

    def make_step(alpha: Any) -> steps.Step:
        return steps.proximal_gradient(lambda x, c: (0.5 * h * x**2 - c * x).sum(-1), l2, alpha)

    c = torch.tensor([[0.3, 1.6, 0.2, 0.1]], dtype=F64)
    x = fo.fixed_point(make_step(0.1), torch.zeros_like(c), c, rtol=1e-15).detach()
    grid = [radius(make_step(float(a)), x, c) for a in torch.logspace(-2, 2, 150, dtype=F64)]
    found = radius(make_step("auto"), x, c)
    assert found <= min(grid) + 0.01 * (1 - min(grid))
    assert found < 0.9 * radius(make_step(2 / 10), x, c)


def test_auto_of_a_quadratic_in_closed_form() -> None:
    h = torch.tensor([[1.0, 2.0, 4.0], [10.0, 30.0, 10.0]], dtype=F64)
    step = steps.gradient(lambda x, h: 0.5 * (h * x**2).sum(-1), "auto")
    x = torch.ones(2, 3, dtype=F64)
    alpha = ((x - step(x, h)) / (h * x)).detach()
    wanted = torch.tensor([[2 / 5], [2 / 40]], dtype=F64).expand(2, 3)  # of each sample
    torch.testing.assert_close(alpha, wanted)
    assert step.symmetric
    assert not steps.gradient(curved, per_sample).symmetric
    on_face = steps.projected_gradient(
        lambda x, h: 0.5 * (h * (x - 1) ** 2).sum(-1),
        lambda y: projections.box(y, -9.0, torch.tensor([9.0, 9.0, 0.5], dtype=F64)),
        "auto",
    )
    x = torch.tensor([[0.0, 0.0, 0.5]] * 2, dtype=F64)  # the third coordinate is at its bound
    alpha = ((x - on_face(x, h)) / (h * (x - 1))).detach()[:, :2]
    torch.testing.assert_close(alpha, torch.tensor([[2 / 3] * 2, [2 / 40] * 2], dtype=F64))


@pytest.mark.parametrize(
    ("curvature", "wanted"),
    [([0.0, 2.0], 0.5), ([-1.0, 2.0], 0.5), ([-4.0, 2.0], 0.25), ([0.0, 0.0], 1.0)],
)
def test_auto_where_no_step_size_contracts(curvature: list[float], wanted: float) -> None:
    h, c = torch.tensor(curvature, dtype=F64), torch.ones(1, 2, dtype=F64)
    step = steps.gradient(lambda x, c: (0.5 * h * x**2 - c * x).sum(-1), "auto")
    moved = step(torch.zeros(1, 2, dtype=F64), c).detach()
    torch.testing.assert_close(moved, wanted * c)


def test_auto_at_a_vertex_and_with_nothing_to_do() -> None:
    c = torch.tensor([[3.0, 0.0]], dtype=F64, requires_grad=True)
    step = steps.projected_gradient(
        lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), projections.simplex, "auto"
    )
    x = fo.fold(step, torch.tensor([[1.0, 0.0]], dtype=F64), c)
    (grad,) = torch.autograd.grad(x[:, 0].sum(), c)
    assert grad.tolist() == [[0.0, 0.0]]
    for shape in ((0, 3), (2, 0)):
        empty = torch.zeros(shape)
        assert steps.gradient(lambda x, c: (x * x).sum(-1), "auto")(empty, empty).shape == shape


# -- it is a constant in every derivative ----------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STEPS)
def test_gradients_are_those_of_a_fixed_step_size(name: str, size: str) -> None:
    x, c, Q = solved(name)
    c.requires_grad_()
    Q.requires_grad_()
    wanted, found = (
        torch.autograd.grad(fo.fold(STEPS[name](a), x, c, Q).sin().sum(), (c, Q))
        for a in (0.15, SIZES[size])
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("name", "size"), [*((name, "auto") for name in STEPS), ("gradient", "function")]
)
def test_second_and_forward_derivatives(name: str, size: str) -> None:
    step, plain = STEPS[name](SIZES[size]), STEPS[name](0.15)

    @fo.folded(step)
    def solution(c: Tensor, Q: Tensor) -> Tensor:
        return fo.fixed_point(plain, torch.zeros_like(c), c, Q, rtol=1e-14)

    c, Q = torch.randn(1, 2, dtype=F64, requires_grad=True), spd(1, 2, 5.0).requires_grad_()
    assert gradcheck(solution, (c, Q), check_forward_ad=True)
    assert gradgradcheck(solution, (c, Q))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STEPS)
def test_transforms(name: str, size: str) -> None:
    x, c, Q = solved(name)
    ours, plain = STEPS[name](SIZES[size]), STEPS[name](0.15)

    def loss(step: Any) -> Any:
        return lambda x, c, Q: (fo.fold(step, x, c, Q, batch_dims=0) ** 3).sum()

    found, wanted = (
        torch.func.vmap(torch.func.grad(loss(step), (1, 2)))(x, c, Q) for step in (ours, plain)
    )
    torch.testing.assert_close(found, wanted)
    for transform in (torch.func.jacfwd, torch.func.jacrev):
        found, wanted = (
            transform(lambda c, step=step: fo.fold(step, x, c, Q))(c) for step in (ours, plain)
        )
        torch.testing.assert_close(found, wanted)
    phi = torch.func.jacrev(ours)(x, c, Q)
    torch.testing.assert_close(phi, torch.func.jacfwd(ours)(x, c, Q))
    together = ours(x, c, Q).detach()
    alone = torch.func.vmap(ours)(x, c, Q).detach()
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_has_the_same_value_in_every_mode(size: str, mode: Any) -> None:
    x, c, Q = solved("projected")
    step = STEPS["projected"](SIZES[size])
    wanted = step(x + 0.1, c, Q).detach()
    with mode():
        torch.testing.assert_close(step(x + 0.1, c, Q), wanted)


def test_a_compiled_step_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldopt.steps._step_size._PRODUCTS", 2)  # a smaller graph
    torch.compiler.reset()
    x, c, Q = solved("projected")
    c.requires_grad_()
    step: Any = torch.compile(STEPS["projected"]("auto"), backend="aot_eager", fullgraph=True)
    found, wanted = (
        torch.autograd.grad(fo.fold(one, x, c, Q).square().sum(), c)
        for one in (step, STEPS["projected"](0.15))
    )
    torch.testing.assert_close(found, wanted)


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("name", STEPS)
def test_batches_nested_states_and_objectives_of_every_shape(
    name: str, batch: tuple[int, ...]
) -> None:
    x, c, Q = (leaf.reshape(6, *leaf.shape[1:]) for leaf in solved(name, 6, 4))
    wanted = STEPS[name]("auto")(x + 0.1, c, Q).detach()
    count = math.prod(batch)
    shaped = [leaf[:count].reshape(*batch, *leaf.shape[1:]) for leaf in (x + 0.1, c, Q)]
    found = STEPS[name]("auto")(*shaped).detach()
    torch.testing.assert_close(found, wanted[:count].reshape(found.shape))


def test_nested_states_and_totals() -> None:
    h = torch.tensor([[1.0, 3.0], [2.0, 8.0]], dtype=F64)

    def nested(x: dict[str, Tensor]) -> Tensor:
        return 0.5 * (h[:, 0] * x["a"] ** 2 + (h[:, 1:] * x["b"] ** 2).sum(-1))

    x = {"a": torch.ones(2, dtype=F64), "b": torch.ones(2, 1, dtype=F64)}
    moved = steps.gradient(nested, "auto")(x)
    alpha = 2 / h.sum(-1)
    torch.testing.assert_close(moved["a"].detach(), 1 - alpha * h[:, 0])
    torch.testing.assert_close(moved["b"].detach(), 1 - (alpha * h[:, 1]).unsqueeze(-1))
    y = torch.ones(2, 2, dtype=F64)
    total = steps.gradient(lambda x: 0.5 * (h * x**2).sum(), "auto")(y)  # one α for all
    torch.testing.assert_close(total.detach(), y - 2 / 9 * h)
    entries = steps.gradient(lambda x: 0.5 * h * x**2, "auto")(y)  # one α for a row
    torch.testing.assert_close(entries.detach(), y - alpha.unsqueeze(-1) * h)


def test_float32_stays_float32() -> None:
    x, c, Q = (leaf.float() for leaf in solved("proximal"))
    for size in SIZES.values():
        assert STEPS["proximal"](size)(x, c, Q).dtype == torch.float32


# -- misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "error", "says"),
    [
        (lambda c, Q: "1", TypeError, "step_size(*params) must return a number or a tensor"),
        (lambda c, Q: -0.1, ValueError, "step_size(*params) must be finite and above 0"),
        (lambda c, Q: c[..., :1] * torch.nan, ValueError, "finite and above 0, and holds nan"),
        (
            lambda c, Q: per_sample(c, Q).squeeze(-1),
            ValueError,
            "step_size(*params) of shape (3,) does not broadcast against x, (3, 5); one for each "
            "sample has shape (B, 1): alpha.unsqueeze(-1)",
        ),
    ],
)
def test_functions_that_return_something_else(size: Any, error: type[Exception], says: str) -> None:
    x, c, Q = solved("gradient")
    with pytest.raises(error, match=re.escape(says)):
        STEPS["gradient"](size)(x, c, Q)


def test_a_bad_function_under_a_transform_gives_nan() -> None:
    x, c, Q = solved("gradient")
    step = STEPS["gradient"](lambda c, Q: 0 * c[..., :1])
    assert bool(torch.func.vmap(step)(x, c, Q).isnan().all())


def test_a_word_that_is_not_auto() -> None:
    says = "step_size must be a number or a tensor, got str 'best'; 'auto' or a function"
    for build in STEPS.values():
        with pytest.raises(TypeError, match=re.escape(says)):
            build("best")


def test_an_operator_that_takes_another_shape_of_step_size_is_told() -> None:
    problem = family("l2", samples=3)
    step = steps.proximal_gradient(quadratic, lambda y, a: prox.l2(y, 1.5 * a), "auto")
    with pytest.raises(ValueError, match=r"prox\.l2: weight of shape \(3, 1\).*squeeze\(-1\)"):
        step(problem.x, *problem.params)
    plain = steps.proximal_gradient(quadratic, lambda y, a: prox.l2(y, 1.5 * a), 0.1)
    torch.testing.assert_close(
        plain(problem.x, *problem.params), BUILD["l2"](0.1)(problem.x, *problem.params)
    )
    assert l2(problem.x, torch.ones(3, 1, dtype=F64)).shape == problem.x.shape


def test_what_is_not_finite_is_reported_by_the_fold() -> None:
    x, c, Q = solved("projected")
    c = c.clone()
    c[1] = torch.nan
    with pytest.raises(fo.FoldError, match="1 NONFINITE"):
        fo.fold(STEPS["projected"]("auto"), x, c.requires_grad_(), Q)
