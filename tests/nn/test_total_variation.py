"""Total variation of sequences as a layer, and what all its forms share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import prox
from foldopt.nn._total_variation import sequence
from foldopt.nn.total_variation import TotalVariationSolution
from tests.closed_forms import F64, is_limit_of_jacobians, jacobian, leaf
from tests.total_variation import (
    FORMS,
    first_differences,
    layer,
    operator_of,
    optimality,
    solution,
    x_and_u,
)

# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 50, 400])
@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0, 500.0])
@pytest.mark.parametrize("whole", [False, True])
def test_sequences_agree_with_the_search_by_cuts(n: int, weight: float, whole: bool) -> None:
    """Whole numbers tie: differences are then exactly zero at a multiplier on its bound."""
    d = 3 * torch.randn(4, n, dtype=F64)
    d = d.round() if whole else d
    expected = prox.total_variation(d, weight)
    torch.testing.assert_close(layer(d, weight), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("whole", [False, True])
def test_a_weight_for_each_difference(whole: bool) -> None:
    d = 3 * torch.randn(40, 25, dtype=F64)
    weight = 3 * torch.rand(40, 24, dtype=F64) * (torch.rand(40, 24) < 0.8)
    d, weight = (d.round(), weight.round()) if whole else (d, weight)
    x, u = x_and_u(d, weight)
    assert optimality(x, u, d, weight, first_differences(25)) < 1e-12
    torch.testing.assert_close(x, layer(d, weight, first_differences(25)), rtol=0, atol=1e-12)


def test_a_long_sequence_beside_a_large_common_part() -> None:
    d = torch.randn(30_000, dtype=F64)
    x, u = x_and_u(d, 4.0)
    off = torch.maximum((u.abs() - 4).max(), (4 * x.diff().abs() - u * x.diff()).max())
    assert float(off) < 1e-10
    torch.testing.assert_close(layer(d + 1e6, 4.0) - 1e6, x, rtol=0, atol=1e-8)


def test_cuts_take_over_where_newton_goes_in_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    d = 3 * torch.randn(5, 40, dtype=F64)
    weight = 2 * torch.rand(5, 39, dtype=F64)
    expected = layer(d, weight)
    monkeypatch.setattr(sequence, "_ROUNDS", 1)
    torch.testing.assert_close(layer(d, weight), expected, rtol=0, atol=1e-13)
    d[1:4] = torch.arange(40)  # these samples are at rest at once, and are left alone
    assert (layer(d, 1e-3) - prox.total_variation(d, 1e-3)).abs().max() < 1e-13


@pytest.mark.parametrize("D", [None, first_differences(4), first_differences(4).to_sparse()])
def test_constant_signals_and_signals_of_no_weight(D: Tensor | None) -> None:
    constant = torch.full((2, 4), 0.7, dtype=F64)
    torch.testing.assert_close(layer(constant, 1.0, D), constant, rtol=0, atol=1e-15)
    torch.testing.assert_close(layer(constant, 0.0, D), constant, rtol=0, atol=1e-15)
    d = torch.randn(2, 4, dtype=F64)
    torch.testing.assert_close(layer(d, 0.0, D), d, rtol=0, atol=1e-15)
    J = jacobian(lambda d: layer(d, 0.0, D), d[0])
    torch.testing.assert_close(J, torch.eye(4, dtype=F64))
    J = jacobian(lambda d: layer(d, 50.0, D), d[0])
    torch.testing.assert_close(J, torch.full((4, 4), 0.25, dtype=F64))


# -- derivatives ---------------------------------------------------------------------------------

WEIGHTS = [(), (2,), (2, 1), (4,), (2, 4)]


@pytest.mark.parametrize("shape", WEIGHTS)
@pytest.mark.parametrize("kind", ["differences", "dense", "dense, one each", "sparse"])
def test_derivatives_in_all_data(kind: str, shape: tuple[int, ...]) -> None:
    d, weight = leaf(2, 5), leaf(*shape, low=0.2)
    function: Callable[..., tuple[Tensor, Tensor]] = x_and_u
    if kind == "differences":
        arguments = (d, weight)
    elif kind == "sparse":
        pattern = (torch.rand(4, 5) < 0.6).double().add(torch.eye(4, 5)).to_sparse().indices()

        def of_values(d: Tensor, weight: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            return x_and_u(
                d,
                weight,
                torch.sparse_coo_tensor(pattern, values, (4, 5), check_invariants=True).coalesce(),
            )

        function, arguments = of_values, (d, weight, leaf(pattern.shape[1]))
    else:
        arguments = (d, weight, leaf(4, 5) if kind == "dense" else leaf(2, 4, 5))
    quick = shape != (2, 4)
    assert torch.autograd.gradcheck(function, arguments, atol=1e-6, fast_mode=quick)
    if not quick or kind == "differences":
        assert torch.autograd.gradgradcheck(function, arguments, atol=1e-5, fast_mode=quick)


def test_the_jacobian_averages_over_blocks() -> None:
    d = torch.tensor([1.0, 0.0, 5.0, 6.0], dtype=F64)
    J = jacobian(layer, d, 0.75)
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(J, expected.double())
    in_weight = jacobian(layer, d, torch.tensor(0.75, dtype=F64), of=1)
    torch.testing.assert_close(in_weight, torch.tensor([0.5, 0.5, 0, -1], dtype=F64))


@pytest.mark.parametrize("D", [None, first_differences(5), first_differences(5).to_sparse()])
def test_at_no_weight_the_derivative_is_that_towards_more(D: Tensor | None) -> None:
    d = torch.tensor([1.0, 3.0, 2.0, 2.5, 0.0], dtype=F64)
    zero = torch.zeros((), dtype=F64)
    found = jacobian(lambda w: layer(d, w, D), zero)
    expected = (layer(d, torch.full((), 1e-3, dtype=F64), D) - d) / 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("D", [None, first_differences(6)])
def test_where_it_is_only_just_constant(D: Tensor | None) -> None:
    """One element of the generalized Jacobian, and the record says so."""
    d = torch.tensor([[0.0, 1.0, 0.0, 3.0, 3.0, 2.0], [0.1, 1.3, 0.6, 3.0, 2.2, 2.0]], dtype=F64)
    with fo.record() as seen:
        layer(d, 0.5, D)
    assert "only just" in seen[0].messages[0]
    assert seen[0].messages[1] == ""
    assert is_limit_of_jacobians(lambda d: layer(d, 0.5, D), d[0])


def test_shared_data_get_the_sum_of_the_gradients() -> None:
    d, weight, D = torch.randn(5, 6, dtype=F64), leaf(low=0.2), leaf(4, 6)
    many = weight.detach().expand(5).clone().requires_grad_()
    each = D.detach().expand(5, 4, 6).clone().requires_grad_()
    layer(d, weight, D).square().sum().backward()
    layer(d, many, each).square().sum().backward()
    for shared, own in ((weight, many), (D, each)):
        assert shared.grad is not None
        assert own.grad is not None
        torch.testing.assert_close(shared.grad, own.grad.sum(0))


# -- shapes, kinds, transforms ---------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_one_signal_and_several_batch_dimensions(form: str) -> None:
    D, d = operator_of(form), torch.randn(2, 3, 6, dtype=F64)
    weight = 0.2 + torch.rand(2, 3, dtype=F64)
    found = solution(d, weight, D)
    assert isinstance(found, TotalVariationSolution)
    assert found.x.shape == (2, 3, 6)
    assert found.multipliers.shape == (2, 3, 5)
    assert found.status.tolist() == [[0, 0, 0], [0, 0, 0]]
    alone = solution(d[1, 2], weight[1, 2], D)
    assert isinstance(alone, TotalVariationSolution)
    assert alone.status.shape == ()
    torch.testing.assert_close(alone.x, found.x[1, 2], rtol=0, atol=1e-14)
    torch.testing.assert_close(alone.multipliers, found.multipliers[1, 2], rtol=0, atol=1e-14)
    assert layer(d[:0], 1.0, D).shape == (0, 3, 6)


@pytest.mark.parametrize("form", FORMS)
def test_single_precision(form: str) -> None:
    D, d = operator_of(form), torch.randn(3, 6, dtype=F64)
    own = D if D is None else D.float()
    exact, weight = d.clone().requires_grad_(), leaf(low=0.5)
    small, lighter = (t.detach().float().requires_grad_() for t in (d, weight))
    x, u = x_and_u(small, lighter, own)
    assert (x.dtype, u.dtype) == (torch.float32, torch.float32)
    expected = layer(exact, weight, D)
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)
    x.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in ((small, exact), (lighter, weight)):
        assert mine.grad is not None
        assert other.grad is not None
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_transforms(form: str) -> None:
    D, d = operator_of(form), torch.randn(4, 6, dtype=F64)
    weight = torch.full((), 0.6, dtype=F64)

    def of(d: Tensor, weight: Tensor) -> Tensor:
        return layer(d, weight, D)

    jacobian(of, d[0], weight)
    jacobian(of, d[0], weight, of=1)
    mapped = torch.func.vmap(of, (0, None))(d, weight)
    torch.testing.assert_close(mapped, of(d, weight), rtol=0, atol=1e-13)
    slope = torch.func.vmap(torch.func.grad(lambda d: of(d, weight).square().sum()))(d)
    leaf = d.clone().requires_grad_()
    (expected,) = torch.autograd.grad(of(leaf, weight).square().sum(), leaf)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(("form", "method"), [("differences", "averaging"), ("dense", "free rows")])
def test_the_record_holds_both_passes(form: str, method: str) -> None:
    d = leaf(3, 6)
    with fo.record() as seen:
        layer(d, 0.5, operator_of(form)).sum().backward()
    assert [event.kind for event in seen] == ["forward", "adjoint"]
    assert seen[1].method == method
    assert all(float(event.residual.max()) < 1e-13 for event in seen)
