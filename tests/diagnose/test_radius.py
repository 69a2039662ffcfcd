"""ρ(Φ) against LAPACK, for every kind of spectrum, and what it predicts."""

from __future__ import annotations

import math
import re
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import foldopt as fo
from foldopt.diagnose._arnoldi import arnoldi, exact, largest
from tests.systems import F64, nilpotent, random_phi, step_jacobian, symmetric


def linear(phi: Tensor) -> Any:
    """U(x, c) = Φx + c."""
    return lambda x, c: (phi @ x.unsqueeze(-1)).squeeze(-1) + c


def measure(phi: Tensor, **options: Any) -> fo.diagnose.SpectralRadius:
    zero = torch.zeros(phi.shape[:-1], dtype=phi.dtype)
    return fo.spectral_radius(linear(phi), zero, zero, **options)


def lapack(phi: Tensor) -> Tensor:
    return torch.linalg.eigvals(phi.double()).abs().amax(-1)


def with_pairs(samples: int, n: int, radii: list[float]) -> Tensor:
    """Complex pairs of the given moduli, at random angles, in a basis that is not orthogonal."""
    block = torch.zeros(samples, n, n, dtype=F64)
    for k, r in enumerate(radii):
        angle = 0.3 + 2.5 * torch.rand(samples, dtype=F64)
        at = slice(2 * k, 2 * k + 2)
        rows = [torch.stack([angle.cos(), -angle.sin()], -1)]
        rows += [torch.stack([angle.sin(), angle.cos()], -1)]
        block[:, at, at] = r * torch.stack(rows, -2)
    basis = torch.randn(samples, n, n, dtype=F64) + 3 * torch.eye(n, dtype=F64)
    return basis @ block @ torch.linalg.inv(basis)


SPECTRA = {
    "random": lambda n: random_phi(3, n, 0.9),
    "above one": lambda n: random_phi(3, n, 1.7),
    "symmetric": lambda n: symmetric(3, n, -0.5, 0.98),
    "negative": lambda n: symmetric(3, n, -0.99, 0.97),
    "complex pairs": lambda n: with_pairs(3, n, [0.95, 0.94, 0.9] + [0.5] * (n // 2 - 3)),
    "not normal": lambda n: (
        torch.diag(torch.linspace(0.1, 0.8, n, dtype=F64)) + nilpotent(3, n) / n
    ),
    "low rank": lambda n: torch.randn(3, n, 2, dtype=F64) @ torch.randn(3, 2, n, dtype=F64) / n,
    "one value": lambda n: 0.7 * torch.eye(n, dtype=F64).expand(3, n, n),
    "zero": lambda n: torch.zeros(3, n, n, dtype=F64),
}


@pytest.mark.parametrize("n", [6, 64, 65, 150])
@pytest.mark.parametrize("name", SPECTRA)
def test_radius_is_that_of_lapack(name: str, n: int) -> None:
    phi = SPECTRA[name](n)
    found = measure(phi)
    torch.testing.assert_close(found.radius, lapack(phi), rtol=1e-7, atol=1e-14)
    assert bool(found.converged.all())
    assert bool((found.residual <= 1e-8 * (1 + found.radius)).all())
    torch.testing.assert_close(found.eigenvalue.abs(), found.radius)
    assert bool((found.eigenvalue.imag >= 0).all())


def test_few_products_suffice_where_few_directions_move() -> None:
    assert measure(SPECTRA["low rank"](150)).products.tolist() == [3, 3, 3]
    assert measure(SPECTRA["one value"](150)).products.tolist() == [1, 1, 1]
    assert int(measure(SPECTRA["random"](150)).products.max()) < 150


def test_close_eigenvalues_need_a_restart_and_get_it() -> None:
    phi = symmetric(2, 300, -0.9991, 0.999)
    found = measure(phi)
    assert int(found.products.min()) > 64
    torch.testing.assert_close(found.eigenvalue.real, torch.full((2,), -0.9991, dtype=F64))


@pytest.mark.parametrize("n", [1, 5, 40])
def test_triangular_nilpotent_is_zero_exactly(n: int) -> None:
    found = measure(nilpotent(2, n))
    assert found.radius.tolist() == [0.0, 0.0]
    assert found.rate.tolist() == [math.inf] * 2
    assert found.iterations.tolist() == [1.0, 1.0]


def test_nilpotent_of_low_index_is_small_where_it_is_large() -> None:
    layers = torch.zeros(2, 120, 120, dtype=F64)  # Φ³ = 0
    layers[:, :40, 40:80] = torch.randn(2, 40, 40, dtype=F64) / 40
    layers[:, 40:80, 80:] = torch.randn(2, 40, 40, dtype=F64) / 40
    assert float(measure(layers).radius.max()) < 1e-5  # ε^(1/3)


@given(
    samples=st.integers(1, 3),
    n=st.integers(1, 12),
    rank=st.integers(0, 12),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_arnoldi_agrees_with_lapack(samples: int, n: int, rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    rank = min(rank, n)
    phi = torch.randn(samples, n, rank, dtype=F64) @ torch.randn(samples, rank, n, dtype=F64)
    jacobian = step_jacobian(phi)
    found = arnoldi(jacobian.vjp, jacobian._generic(0.7548776662466927), 1e-10, 200)
    wanted = exact(phi)
    assert bool(found.converged.all())
    torch.testing.assert_close(
        found.eigenvalue.abs(), wanted.eigenvalue.abs(), rtol=1e-6, atol=1e-7
    )


def test_an_eigenvalue_that_shows_late_is_waited_for() -> None:
    phi = torch.diag(torch.tensor([0.9] + [0.5] * 99, dtype=F64)).unsqueeze(0)
    start = torch.ones(1, 100, dtype=F64)
    start[0, 0] = 1e-7  # at the first look 0.5 has converged
    found = arnoldi(step_jacobian(phi).vjp, start, 1e-6, 100)
    assert float(found.eigenvalue.abs()) == pytest.approx(0.9)


def test_of_a_pair_the_upper_one_is_given() -> None:
    values = torch.tensor([[-1 - 1j, -1 + 1j, 0.5], [0.1, 2j, -2j]], dtype=torch.complex128)
    assert largest(values).tolist() == [-1 + 1j, 2j]


@pytest.mark.parametrize("rtol", [None, 1e-2])
def test_a_sample_does_not_depend_on_the_others(rtol: float | None) -> None:
    parts = [random_phi(1, 100, r) for r in (0.2, 0.99, 3.0)]
    parts += [SPECTRA["low rank"](100)[:1], torch.zeros(1, 100, 100, dtype=F64)]
    parts += [torch.full((1, 100, 100), torch.nan, dtype=F64)]
    together = measure(torch.cat(parts), rtol=rtol)
    for k, part in enumerate(parts):
        alone = measure(part, rtol=rtol)
        assert together.products[k] == alone.products[0]
        assert together.converged[k] == alone.converged[0]
        torch.testing.assert_close(
            together.radius[k], alone.radius[0], rtol=1e-9, atol=1e-14, equal_nan=True
        )


@pytest.mark.parametrize("n", [8, 100])
def test_what_is_not_finite_is_nan_and_not_converged(n: int) -> None:
    phi = random_phi(2, n, 0.5)
    phi[1, 0, 0] = torch.inf
    found = measure(phi)
    assert found.radius.isnan().tolist() == [False, True]
    assert found.iterations.isnan().tolist() == [False, True]
    assert found.converged.tolist() == [True, False]


def test_rate_and_iterations_are_those_of_lfpi() -> None:
    phi = symmetric(1, 10, -0.4, 0.9)
    found = measure(phi, tolerance=1e-8)
    assert float(found.rate) == pytest.approx(-math.log(0.9))
    g, v = torch.ones(1, 10, dtype=F64), torch.ones(1, 10, dtype=F64)
    limit = torch.linalg.solve(torch.eye(10, dtype=F64) - phi.mT, g.unsqueeze(-1)).squeeze(-1)
    count = 0
    while float((v - limit).norm() / limit.norm()) > 1e-8:
        v, count = g + (phi.mT @ v.unsqueeze(-1)).squeeze(-1), count + 1
    assert abs(count - float(found.iterations)) <= 0.1 * count
    diverging = measure(random_phi(1, 5, 1.5))
    assert float(diverging.rate) == pytest.approx(-math.log(1.5))
    assert float(diverging.iterations) == math.inf


def test_shapes_dtypes_and_structures() -> None:
    phi = random_phi(6, 4, 0.5)
    flat = measure(phi).radius
    zero = torch.zeros(2, 3, 4, dtype=F64)
    found = fo.spectral_radius(linear(phi.reshape(2, 3, 4, 4)), zero, zero, batch_dims=2)
    torch.testing.assert_close(found.radius, flat.reshape(2, 3))
    one = fo.spectral_radius(linear(phi[0]), zero[0, 0], zero[0, 0], batch_dims=0)
    assert all(field.shape == () for field in one)
    torch.testing.assert_close(one.radius, flat[0])

    def nested(x: dict[str, Tensor], c: Tensor) -> dict[str, Tensor]:
        y = (phi @ torch.cat([x["a"], x["b"]], -1).unsqueeze(-1)).squeeze(-1) + c
        return {"a": y[:, :1], "b": y[:, 1:]}

    start = {"a": torch.zeros(6, 1, dtype=F64), "b": torch.zeros(6, 3, dtype=F64)}
    torch.testing.assert_close(
        fo.spectral_radius(nested, start, torch.zeros(6, 4, dtype=F64)).radius, flat
    )
    single = measure(phi.float())
    assert single.radius.dtype == torch.float32
    torch.testing.assert_close(single.radius.double(), flat, rtol=1e-4, atol=0)
    large = random_phi(2, 100, 0.8, torch.float32)
    torch.testing.assert_close(measure(large).radius.double(), lapack(large), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_measure(shape: tuple[int, ...]) -> None:
    zero = torch.zeros(shape)
    found = fo.spectral_radius(lambda x, c: 0.5 * x + c, zero, zero)
    assert found.radius.tolist() == [0.0] * shape[0]
    assert bool(found.converged.all())


def test_modules_constants_and_steps_with_a_precomputation() -> None:
    module = nn.Linear(3, 3).double()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return 0.3 * self.inner(x) + c

    zero = torch.zeros(2, 3, dtype=F64)
    wanted = lapack(0.3 * module.weight.detach()).expand(2)
    torch.testing.assert_close(fo.spectral_radius(Wrapped(), zero, zero).radius, wanted)
    assert fo.spectral_radius(lambda x, c: 2 * c, zero, zero).radius.tolist() == [0.0, 0.0]
    prepared = fo.steps.Step(lambda x, M: x @ M.T, precompute=lambda c: (torch.diag_embed(c) / 4,))
    c = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    torch.testing.assert_close(
        fo.spectral_radius(prepared, zero, c).radius, torch.full((2,), 0.75, dtype=F64)
    )


def test_no_random_number_is_drawn_and_no_graph_is_left() -> None:
    before = torch.get_rng_state()
    c = torch.zeros(2, 100, dtype=F64, requires_grad=True)
    found = fo.spectral_radius(linear(torch.eye(100, dtype=F64) / 2), torch.zeros_like(c), c)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(field.requires_grad for field in found)
    with torch.inference_mode():
        same = fo.spectral_radius(lambda x, c: 0.5 * x + c, torch.zeros(1, 2), torch.zeros(1, 2))
    assert float(same.radius) == 0.5


def test_too_few_products_give_an_estimate_and_a_warning() -> None:
    phi = symmetric(2, 300, -0.9991, 0.999)
    with pytest.warns(
        fo.FoldWarning, match=r"2 of 2 samples.*20 products.*Raise max_products"
    ) as seen:
        found = measure(phi, max_products=20)
    assert seen[0].filename == __file__
    assert not bool(found.converged.any())
    assert found.products.tolist() == [20, 20]
    assert bool((found.radius > 0.9).all())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tolerance": 0.0}, ValueError, "tolerance must be above 0 and below 1, got 0.0"),
        ({"tolerance": 2.0}, ValueError, "tolerance must be above 0 and below 1, got 2.0"),
        ({"rtol": -1.0}, ValueError, "rtol must be 0 or more"),
        ({"max_products": 0}, ValueError, "max_products must be an integer of 1 or more, got 0"),
        ({"max_products": 1.5}, ValueError, "max_products must be an integer"),
        ({"batch_dims": -1}, ValueError, "batch_dims must be an integer of 0 or more"),
    ],
)
def test_options_of_another_kind(options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        measure(torch.zeros(1, 2, 2, dtype=F64), **options)


def test_steps_that_cannot_be_measured() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(fo.FoldError, match="mixes samples"):
        fo.spectral_radius(lambda x, c: x - x.mean(0) + c, x, x)
    with pytest.raises(fo.FoldError, match=r"inside a torch.func transform.*call it outside"):
        torch.func.grad(lambda c: fo.spectral_radius(lambda x, c: c * x, x, c).radius.sum())(x)
    with pytest.raises(fo.FoldError, match="the step must return what it was given"):
        fo.spectral_radius(lambda x, c: x[:, :1], x, x)
    not_a_step: Any = 3
    with pytest.raises(TypeError, match="step must be callable"):
        fo.spectral_radius(not_a_step, x, x)
    with pytest.raises(TypeError, match="floating-point"):
        fo.spectral_radius(lambda x, c: x, x.long(), x)
