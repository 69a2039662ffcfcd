"""The smooth top-k layer against its optimality conditions, bisection and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status
from foldopt.nn import SmoothTopK, _top_k
from foldopt.nn.smooth_top_k import Form

F64 = torch.float64
FORMS: tuple[Form, ...] = ("entropy", "binary")


def scores_of(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def check_optimal(layer: SmoothTopK, c: Tensor, rtol: float) -> None:
    """Feasible, stationary, complementary: for a convex program that is all."""
    x, nu, upper, status = layer(c)
    tau, n = layer.temperature, c.shape[-1]
    size = 1 + c.abs().amax()
    assert status.eq(0).all()
    # x is a function of the scores over τ, and these are rounded.
    atol = n * (rtol + 2 * torch.finfo(x.dtype).eps * float(size) / tau)
    torch.testing.assert_close(x.sum(-1), torch.full_like(nu, layer.k), rtol=rtol, atol=atol)
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert (upper >= -rtol * size).all()
    assert (upper * (1 - x)).abs().max() <= rtol * size
    inside = x > 1e-200  # where the logarithm can be taken
    slope, rounding = x.clamp_min(1e-300).log() + 1, torch.zeros_like(x)
    if layer.form == "binary":
        inside &= x < 1 - 1e-9
        slope = torch.logit(x.clamp(1e-300, 1 - 1e-16))
        # Near 1 the logit has the rounding error of x, divided by how far x is from 1.
        rounding = tau * torch.finfo(x.dtype).eps / (1 - x).clamp_min(1e-9)
    gap = (-c + tau * slope + nu.unsqueeze(-1) + upper).abs() - rounding
    assert gap[inside].max() <= 100 * rtol * (size + tau * 700)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 30),
    share=st.floats(0.01, 0.99),
    scale=st.floats(-3, 4),
    temperature=st.floats(-2, 2),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_answer_is_optimal(
    form: Form, n: int, share: float, scale: float, temperature: float, whole: bool, seed: int
) -> None:
    k = max(1, round(share * n)) if whole else share * n
    k = min(k, n - 1) if form == "binary" and whole else k
    layer = SmoothTopK(k, 10.0**temperature, form, multipliers=True)
    check_optimal(layer, scores_of(3, n, scale=10.0**scale, seed=seed), 1e-12)


def test_all_of_them() -> None:
    c = scores_of(2, 4).requires_grad_()
    x = SmoothTopK(4)(c)
    assert x.eq(1).all()
    (gradient,) = torch.autograd.grad(x.sum(), c)
    assert gradient.eq(0).all()


def test_without_a_bound_it_is_a_softmax() -> None:
    c = scores_of(5, 50, scale=0.3)
    torch.testing.assert_close(
        SmoothTopK(3, 0.5)(c), 3 * torch.softmax(c / 0.5, -1), rtol=1e-14, atol=0
    )


def test_it_tends_to_the_indicator_of_the_largest() -> None:
    c = scores_of(4, 20)
    indicator = torch.zeros_like(c).scatter(-1, c.topk(5).indices, 1.0)
    for form in FORMS:
        x = SmoothTopK(5, 1e-5, form)(c)
        torch.testing.assert_close(x, indicator, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_in_scores_k_and_temperature(form: Form) -> None:
    layer = SmoothTopK(3, form=form, multipliers=True)
    c = scores_of(3, 6, scale=2.0).requires_grad_()
    k = torch.tensor([2.0, 2.5, 3.7], dtype=F64, requires_grad=True)
    tau = torch.tensor([1.0, 0.5, 0.3], dtype=F64, requires_grad=True)
    saturated = layer(c, k=k, temperature=tau).upper > 0
    assert bool(saturated.any()) == (form == "entropy")

    def solve(c: Tensor, k: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
        found = layer(c, k=k, temperature=tau)
        return found.x, found.equality, found.upper

    assert torch.autograd.gradcheck(solve, (c, k, tau))
    assert torch.autograd.gradgradcheck(solve, (c, k, tau))


@pytest.mark.parametrize("form", FORMS)
def test_transforms(form: Form) -> None:
    layer, c = SmoothTopK(2, 0.5, form), scores_of(4, 5, scale=2.0)
    whole = torch.func.jacrev(layer)(c)
    rows = torch.func.vmap(torch.func.jacrev(layer))(c)
    forward = torch.func.vmap(torch.func.jacfwd(layer))(c)
    for i in range(4):
        torch.testing.assert_close(rows[i], whole[i, :, i], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(forward[i], whole[i, :, i], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.func.vmap(layer)(c), layer(c), rtol=1e-14, atol=0)


def test_third_derivatives_of_the_binary_form() -> None:
    layer = SmoothTopK(2, 0.7, "binary")
    c = scores_of(5).requires_grad_()

    def second(c: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(layer(c)[0], c, create_graph=True)
        return torch.autograd.grad(first[1], c, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (c,))


def test_single_precision_and_batches() -> None:
    c = scores_of(2, 3, 7)
    x = SmoothTopK(2)(c.float())
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), SmoothTopK(2)(c), rtol=1e-6, atol=1e-7)
    assert SmoothTopK(2)(c[0, 0]).shape == (7,)


def test_the_record_tells_how_exact_it_is() -> None:
    with fo.record() as seen:
        SmoothTopK(2)(scores_of(4, 9))
    (event,) = seen
    assert event.kind == "forward"
    assert event.residual.shape == (4,)
    assert float(event.residual.max()) < 1e-14


def test_an_entry_that_only_just_reaches_one() -> None:
    # 2 softmax(log 3, 0, 0, 0) = (1, ⅓, ⅓, ⅓).
    edge = torch.tensor([[3.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0]], dtype=F64).log()
    c = edge.requires_grad_()
    with fo.record() as seen:
        x = SmoothTopK(2)(c)
    torch.testing.assert_close(x[0].detach(), torch.tensor([1.0, 1 / 3, 1 / 3, 1 / 3]).to(F64))
    assert "only just reaches 1" in seen[0].messages[0]
    assert seen[0].messages[1] == ""
    (gradient,) = torch.autograd.grad(x[0, 0], c)
    free = torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3], dtype=F64) / 2
    sides = (torch.zeros(4, dtype=F64), free)
    assert any(torch.allclose(gradient[0], side, rtol=0, atol=1e-12) for side in sides)
    with fo.record() as seen:
        SmoothTopK(4)(c)  # all of them are 1 for good
    assert seen[0].messages == ()


@pytest.mark.parametrize("form", FORMS)
def test_masked_samples_leave_the_others_exact(form: Form) -> None:
    c, good = scores_of(4, 5).requires_grad_(), scores_of(4, 5).requires_grad_()
    with torch.no_grad():
        c[1, 2] = torch.nan
        c[3] = torch.inf
    k = torch.tensor([2.0, 2.0, 7.0, 2.0], dtype=F64)
    tau = torch.tensor(0.7, dtype=F64, requires_grad=True)
    layer = SmoothTopK(2, form=form, multipliers=True, on_failure="mask")
    with fo.record() as seen:
        found = layer(c, k=k, temperature=tau)
    bad = int(Status.NONFINITE)
    assert found.status.tolist() == [0, bad, int(Status.INFEASIBLE), bad]
    assert "scores hold nan at (1, 2)" in seen[0].messages[1]
    assert "k must be above 0" in seen[0].messages[2]
    for part in found[:3]:
        assert part[1:].isnan().all()
        assert part[0].isfinite().all()
    mine = torch.autograd.grad((found.x[0] * found.x[0]).sum(), (c, tau))
    other = SmoothTopK(2, form=form)(good, temperature=tau)[0]
    theirs = torch.autograd.grad((other * other).sum(), (good, tau))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    with pytest.warns(fo.FoldWarning, match=r"scores hold nan at \(1, 2\).*2 NONFINITE"):
        SmoothTopK(2, on_failure="warn")(c)


def test_a_search_that_has_not_ended_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_top_k, "_SEARCH", 1)
    monkeypatch.setattr(_top_k, "_NEWTON", 0)
    with pytest.raises(FoldError, match=r"Σx is off k by .*3 INACCURATE") as caught:
        SmoothTopK(3, form="binary")(scores_of(3, 9, scale=5.0))
    assert caught.value.status is not None
    layer = SmoothTopK(3, form="binary", multipliers=True, on_failure="mask")
    c = scores_of(3, 9, scale=5.0).requires_grad_()
    found = layer(c)
    assert found.status.eq(int(Status.INACCURATE)).all()
    assert found.x.isnan().all()


@pytest.mark.parametrize("form", FORMS)
def test_transforms_of_multipliers_k_and_temperature(form: Form) -> None:
    layer, c = SmoothTopK(2, form=form, multipliers=True), scores_of(4, 5, scale=2.0)
    k = torch.tensor([1.3, 2.0, 2.6, 3.0], dtype=F64)
    tau = torch.tensor([0.4, 1.0, 0.7, 2.0], dtype=F64)

    def solve(c: Tensor, k: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
        found = layer(c, k=k, temperature=tau)
        return found.x, found.equality, found.upper

    reverse = torch.func.vmap(torch.func.jacrev(solve, argnums=(0, 1, 2)))(c, k, tau)
    forward = torch.func.vmap(torch.func.jacfwd(solve, argnums=(0, 1, 2)))(c, k, tau)
    for a, b in zip(reverse, forward, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    t = torch.autograd.functional.jacobian(lambda tau: solve(c, k, tau)[1], tau)
    torch.testing.assert_close(t.diagonal(), reverse[1][2], rtol=1e-10, atol=1e-12)
    # One k and one τ for all: their gradient is the sum.
    one = torch.tensor([2.2, 0.8], dtype=F64, requires_grad=True)
    w = scores_of(4, 5, seed=1)
    (both,) = torch.autograd.grad((layer(c, k=one[0], temperature=one[1]).x * w).sum(), one)
    many = one.detach().expand(4, 2).clone().requires_grad_()
    (each,) = torch.autograd.grad(
        (layer(c, k=many[:, 0], temperature=many[:, 1]).x * w).sum(), many
    )
    torch.testing.assert_close(both, each.sum(0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"k": 2, "on_failure": "ignore"}, ValueError, "on_failure must be one of"),
        ({"k": 0}, ValueError, "k must be above 0 and finite, got 0"),
        ({"k": "2"}, TypeError, "k must be a number, got str"),
        ({"k": 2, "temperature": -1.0}, ValueError, "temperature must be above 0"),
        ({"k": 2, "form": "other"}, ValueError, "form must be 'entropy' or 'binary'"),
    ],
)
def test_wrong_settings(arguments: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        SmoothTopK(**arguments)


def test_wrong_scores() -> None:
    layer = SmoothTopK(3)
    with pytest.raises(TypeError, match=r"scores must be a tensor of float32 or .*, got list"):
        layer([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        layer(torch.arange(4))
    with pytest.raises(TypeError, match=r"scores must be dense, got torch\.sparse_coo"):
        layer(torch.ones(2, 4).to_sparse())
    with pytest.raises(TypeError, match=r"k must be dense, got torch\.sparse_coo"):
        layer(torch.ones(2, 4), k=torch.ones(2).to_sparse())
    with pytest.raises(ValueError, match=r"shape \(\*batch, n\), got \(\)"):
        layer(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"scores hold nan at \(1, 0\)"):
        layer(torch.tensor([[1.0, 2, 3, 4], [torch.nan, 2, 3, 4]]))
    with pytest.raises(ValueError, match=r"k must be above 0 and at most n = 2"):
        layer(torch.ones(2))
    with pytest.raises(ValueError, match="k must be above 0 and below n = 3"):
        SmoothTopK(3, form="binary")(torch.ones(3))
    with pytest.raises(ValueError, match=r"k must be a tensor of torch.float32 and of shape \(\)"):
        layer(torch.ones(2, 4), k=torch.ones(3))
    with pytest.raises(
        ValueError, match="temperature must be above 0 and finite everywhere, got 0"
    ):
        layer(torch.ones(4), temperature=torch.tensor(0.0))
    assert "k=3" in repr(layer)
