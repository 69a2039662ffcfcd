"""Errors of the forward and backward pass: closed forms, real unrolling, and the fitted rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.linear import LinearOperator
from tests.descent import family
from tests.problems import contraction, network_step
from tests.systems import F64, random_phi


def halving(x: Tensor, c: Tensor) -> Tensor:
    return 0.5 * x + c


def network(samples: int = 2, n: int = 5) -> tuple[Any, Tensor, tuple[Tensor, ...]]:
    step = network_step(contraction(n, 0.7))
    c, w = torch.randn(samples, 3, dtype=F64), torch.randn(3, n, dtype=F64)
    x = fo.fixed_point(step, torch.zeros(samples, n, dtype=F64), c, w, rtol=1e-15)
    return step, x.detach(), (c, w)


# -- what is measured ------------------------------------------------------------------------------


def test_errors_of_a_halving_step_in_closed_form() -> None:
    c = torch.tensor([[1.0, -3.0]], dtype=F64)
    trace = fo.backward_trace(halving, 2 * c, c, iterations=10)
    k = torch.arange(11)
    powers = 0.5 ** k.double()
    assert trace.iterations.tolist() == k.tolist()
    assert trace.start == "fixed_point"
    assert trace.forward.tolist() == [0.0] * 11
    torch.testing.assert_close(trace.backward.error, powers)  # J_k = 2 (1 − 2⁻ᵏ)
    lfpi = trace.adjoints["LFPI"]
    assert lfpi.spent.tolist() == k.tolist()
    torch.testing.assert_close(lfpi.error, powers / 2)  # v_k = J_{k+1}ᵀ g
    assert list(trace.adjoints) == ["LFPI", "GMRES", "BiCGSTAB"]
    assert trace.adjoints["GMRES"].first_below(1e-12) == 2  # one product, and a last look
    start = torch.zeros(1, 2, dtype=F64)
    from_zero = fo.backward_trace(halving, 2 * c, c, iterations=10, start=start, adjoints=[])
    assert from_zero.start == "given"
    torch.testing.assert_close(from_zero.forward, powers)
    assert from_zero.adjoints == {}


def test_backward_errors_are_those_of_unroll() -> None:
    step, x_star, (c, w) = network()
    target = torch.randn_like(x_star)

    def loss(x: Tensor) -> Tensor:
        return (x - target).square().sum(-1)  # one value a sample: summed

    start = torch.rand(x_star.shape, dtype=F64)
    trace = fo.backward_trace(
        step, x_star, c, w, loss=loss, start=start, iterations=12, every=4, adjoints=[]
    )
    leaves = [c.clone().requires_grad_(), w.clone().requires_grad_()]
    exact = torch.autograd.grad(loss(fo.fold(step, x_star, *leaves)).sum(), leaves)
    for position, k in enumerate((0, 4, 8, 12)):
        x = fo.unroll(step, start, *leaves, iterations=k)
        grads = [torch.zeros_like(leaf) for leaf in leaves]
        if k:
            grads = list(torch.autograd.grad(loss(x).sum(), leaves))
        gap = sum(float((a - b).detach().abs().sum()) for a, b in zip(grads, exact, strict=True))
        size = sum(float(b.abs().sum()) for b in exact)
        assert int(trace.iterations[position]) == k
        assert float(trace.backward.error[position]) == pytest.approx(gap / size, rel=1e-9)
        forward = float((x.detach() - x_star).abs().sum() / x_star.abs().sum())
        assert float(trace.forward[position]) == pytest.approx(forward, rel=1e-9)


def test_lfpi_is_unfolding_one_product_later() -> None:
    step, x, params = network()
    trace = fo.backward_trace(step, x, *params, iterations=15)
    torch.testing.assert_close(
        trace.adjoints["LFPI"].error[:-1], trace.backward.error[1:], rtol=1e-6, atol=1e-14
    )


def test_the_products_are_the_ones_that_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    step, x, params = network(n=6)
    calls = []
    original = LinearOperator.phi

    def phi(self: Any, v: Tensor) -> Tensor:
        calls.append(v.shape)
        return original(self, v)

    monkeypatch.setattr(LinearOperator, "phi", phi)
    trace = fo.backward_trace(
        step, x, *params, iterations=0, products=6, adjoints=[fo.GMRES(), fo.BiCGSTAB()]
    )
    direct = 1  # the reference's residual
    assert direct + sum(int(curve.spent.sum()) for curve in trace.adjoints.values()) <= len(calls)
    gmres = trace.adjoints["GMRES"]
    assert gmres.spent.tolist() == [0, 2, 3, 4, 5, 6, 7]  # k products and the look at the residual
    assert bool((gmres.error[1:] < gmres.error[:-1]).all())
    assert float(gmres.error[-1]) < 1e-12  # n products: exact
    assert trace.adjoints["BiCGSTAB"].spent.tolist() == [0, 3, 5, 7]


def test_cg_takes_part_where_phi_is_symmetric() -> None:
    make_step, x, params = family("gradient", n=6)
    trace = fo.backward_trace(make_step(0.05), x, *params, iterations=0, products=10)
    assert list(trace.adjoints) == ["LFPI", "GMRES", "BiCGSTAB", "CG"]
    reached = {name: curve.first_below(1e-9) for name, curve in trace.adjoints.items()}
    assert reached["LFPI"] is None
    assert reached["CG"] is not None
    assert reached["CG"] <= 8  # n = 6, a product for the check, and rounding


def test_two_solvers_of_a_kind_have_two_names() -> None:
    c = torch.ones(1, 2, dtype=F64)
    solvers = [fo.GMRES(), fo.GMRES(restart=1)]
    trace = fo.backward_trace(halving, 2 * c, c, iterations=3, adjoints=solvers)
    assert list(trace.adjoints) == ["GMRES", repr(solvers[1])]


def test_the_gradient_is_that_in_params_that_require_grad_or_in_all() -> None:
    c, d = torch.ones(1, 2, dtype=F64), torch.ones(1, 2, dtype=F64)

    def step(x: Tensor, c: Tensor, d: Tensor) -> Tensor:
        fast, slow = x[:, :1], x[:, 1:]
        return torch.cat([0.1 * fast + c[:, :1], 0.9 * slow + d[:, 1:]], -1)

    x = torch.tensor([[1 / 0.9, 10.0]], dtype=F64)
    of_c = fo.backward_trace(step, x, c.requires_grad_(), d, iterations=12, adjoints=[])
    assert of_c.fitted_rate() == pytest.approx(-math.log(0.1), rel=1e-3)
    of_all = fo.backward_trace(step, x, c.detach(), d, iterations=40, adjoints=[])
    assert of_all.fitted_rate() == pytest.approx(-math.log(0.9), rel=0.02)


def test_random_starts_are_seeded_uniform_and_leave_the_global_generator_alone() -> None:
    c = torch.ones(2, 50, dtype=F64)
    before = torch.get_rng_state()
    traces = [
        fo.backward_trace(halving, 2 * c, c, start="random", iterations=2, generator=generator)
        for generator in (None, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    first = [float(trace.forward[0]) for trace in traces]
    assert first[0] == first[1] != first[2]
    assert first[0] == pytest.approx(0.75, abs=0.05)  # mean of |u − 2| / 2


def test_modules_nested_states_precomputation_and_float32() -> None:
    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(2, dtype=F64))

        def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return 0.5 * x[0] + self.shift, 0.25 * x[1] + 3 * self.shift

    x = torch.full((3, 2), 2.0, dtype=F64), torch.full((3, 2), 4.0, dtype=F64)
    trace = fo.backward_trace(Halving(), x, iterations=30, cotangent=(0 * x[0], x[1]))
    assert trace.fitted_rate() == pytest.approx(math.log(4), rel=1e-3)
    calls = []

    def prepare(c: Tensor) -> tuple[Tensor]:
        calls.append(c)
        return (2 * c,)

    step = fo.steps.Step(halving, precompute=prepare)
    c = torch.ones(1, 2)
    trace = fo.backward_trace(step, 4 * c, c, iterations=12)
    assert len(calls) == 2  # once recorded, once unrolled
    assert trace.backward.eps == torch.finfo(torch.float32).eps
    assert trace.fitted_rate() == pytest.approx(math.log(2), rel=1e-3)


# -- rates -----------------------------------------------------------------------------------------

KINDS = ("gradient", "box", "simplex", "capped", "ball", "l1", "l2")


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_rate_is_within_five_percent_of_the_spectral_radius(kind: str) -> None:
    found = 0
    while found < 5:
        make_step, x, params = family(kind, n=int(torch.randint(3, 9, ())), condition=8.0)
        step = make_step(float(0.05 + 0.1 * torch.rand(())))
        rate = float(fo.spectral_radius(step, x, *params).rate)
        if not 0.2 < rate < 3:
            continue
        found += 1
        fits = []
        for _ in range(2):  # one cotangent may have hardly anything in the dominant eigenspace
            trace = fo.backward_trace(
                step,
                x,
                *params,
                cotangent=torch.randn_like(x),
                iterations=0,
                products=max(40, math.ceil(36 / rate)),
                adjoints=[fo.LFPI()],
            )
            fits.append(trace.fitted_rate("LFPI"))
        assert min(fits) == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("radius", [0.6, 0.9])
def test_fitted_rate_where_the_error_oscillates(n: int, radius: float) -> None:
    for _ in range(5):
        phi = random_phi(1, n, radius)
        while not _complex_dominant(phi):
            phi = random_phi(1, n, radius)
        c = torch.randn(1, n, dtype=F64)
        x = torch.linalg.solve(torch.eye(n, dtype=F64) - phi, c.unsqueeze(-1)).squeeze(-1)
        trace = fo.backward_trace(
            lambda x, c, phi=phi: (phi @ x.unsqueeze(-1)).squeeze(-1) + c,
            x,
            c,
            iterations=0,
            products=math.ceil(36 / -math.log(radius)),
            adjoints=[fo.LFPI()],
        )
        assert trace.fitted_rate("LFPI") == pytest.approx(-math.log(radius), rel=0.05)


def _complex_dominant(phi: Tensor) -> bool:
    values = torch.linalg.eigvals(phi)[0]
    return bool(values[values.abs().argmax()].imag != 0)


def test_unrolling_from_elsewhere_lags_by_a_factor_of_k() -> None:
    """Not another rate: k ρᵏ against ρᵏ (a curved step, so that Φ_k is not constant)."""

    def step(x: Tensor, c: Tensor) -> Tensor:
        return x - 0.3 * (x + 0.3 * x**3 - c)

    c = torch.tensor([[1.0, 0.4]], dtype=F64)
    x = fo.fixed_point(step, torch.zeros_like(c), c, rtol=1e-15).detach()
    rate = float(fo.spectral_radius(step, x, c).rate)
    near = fo.backward_trace(step, x, c, iterations=90, adjoints=[])
    far = fo.backward_trace(step, x, c, start=0 * x, iterations=90, adjoints=[])
    assert near.fitted_rate() == pytest.approx(rate, rel=0.02)
    assert far.fitted_rate("forward") == pytest.approx(rate, rel=0.02)
    assert far.fitted_rate() == pytest.approx(rate, rel=0.03)
    assert far.fitted_rate(power=0) < 0.98 * rate  # without the factor k it looks slower
    lag = far.backward.error / near.backward.error
    slopes = [float(lag[k + 10] - lag[k]) for k in (30, 40, 50)]
    assert slopes[0] > 0.01
    assert slopes[1:] == pytest.approx(slopes[:2], rel=0.05)
