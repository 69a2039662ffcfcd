"""What the nonlinear program layer says of solutions without a derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, FoldWarning, Status
from foldopt.nn.nlp import NLP
from tests.nlp import distance, rows


def quartic(x: Tensor, p: Tensor) -> Tensor:
    return x[0] ** 4 + p * x[0]


def doubled(x: Tensor, p: Tensor) -> list[Tensor]:
    """One constraint, twice."""
    return [x[0] - p[0], 3 * (x[0] - p[0])]


def test_a_constraint_twice_has_no_unique_multipliers() -> None:
    def build(**options: Any) -> NLP:
        return NLP(
            lambda x, p: (x[0] - p[1]) ** 2, doubled, start=rows(0.0), executor="serial", **options
        )

    p = rows((1.0, 3.0), (1.0, 0.5)).requires_grad_()
    with fo.record() as seen:
        x = build()(p)
    assert torch.allclose(x[:, 0], rows(1.0, 0.5))
    assert "LICQ" in seen[0].messages[0]
    assert "inequality 0, inequality 1" in seen[0].messages[0]
    assert seen[0].messages[1] == ""
    with pytest.raises(FoldError, match=r"1 of 2 samples\. Sample 0: .*LICQ"):
        torch.autograd.grad(x.sum(), p, retain_graph=True)
    # Nothing is asked of the bad sample: the good one has its derivative.
    (gradient,) = torch.autograd.grad(x[1].sum(), p)
    assert torch.allclose(gradient, rows((0.0, 0.0), (0.0, 1.0)), atol=1e-12)
    (gradient,) = torch.autograd.grad(build(on_failure="mask")(p).sum(), p)
    assert torch.allclose(gradient, rows((0.0, 0.0), (0.0, 1.0)), atol=1e-12)
    with pytest.warns(FoldWarning, match="did not solve"):
        torch.autograd.grad(build(on_failure="warn")(p).sum(), p)
    # Both rows say the same of x, which least squares finds.
    for degenerate in ("least-squares", "damped"):
        with fo.record() as seen:
            (gradient,) = torch.autograd.grad(build(degenerate=degenerate)(p).sum(), p)
        assert torch.allclose(gradient, rows((1.0, 0.0), (0.0, 1.0)), atol=1e-6)
        assert seen[1].status.tolist() == [Status.LEAST_SQUARES, Status.CONVERGED]


@pytest.mark.parametrize("answer", [None, 1e-10, 0.0])
def test_curvature_that_vanishes_at_the_solution(answer: float | None) -> None:
    """X⁴ at p = 0, however near the solver has come to 0: never a gradient of 1e19."""
    solver: Any = "ipopt" if answer is None else lambda p: rows((answer,))
    start = rows(1.0) if answer is None else None
    layer = NLP(quartic, start=start, solver=solver, executor="serial")
    p = rows(0.0).requires_grad_()
    x = layer(p)
    assert x.abs().max() < 1e-3
    with pytest.raises(FoldError, match="curvature"):
        x.sum().backward()
    # Not far from there it has one: 1 / (12 x²).
    p = rows(-0.5, -4e-9).requires_grad_()
    x = NLP(quartic, start=rows(1.0), executor="serial")(p)
    assert torch.allclose(x, rows((0.5,), (1e-3,)), rtol=1e-9)
    (gradient,) = torch.autograd.grad(x.sum(), p)
    assert torch.allclose(gradient, -1 / (12 * x.detach()[:, 0] ** 2), rtol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_condition_number_is_no_degeneracy(sparse: bool) -> None:
    """Curvatures of 1 and 1e-9, or 1e-13 in all directions: badly scaled, but with a derivative."""

    def bowl(x: Tensor, p: Tensor) -> Tensor:
        r = (x - p) @ rows((0.6, 0.8), (-0.8, 0.6))
        return r[0] ** 2 + 1e-9 * r[1] ** 2 + 0.1 * r[0] ** 4

    p = rows((0.3, -0.4)).requires_grad_()
    layer = NLP(bowl, solver=lambda p: p + 1e-6, sparse=sparse)
    (gradient,) = torch.autograd.grad(layer(p)[0, 0], p)
    assert torch.allclose(gradient, rows((1.0, 0.0)), atol=1e-6)
    layer = NLP(lambda x, p: 1e-13 * distance(x, p), solver=lambda p: p + 1e-6, sparse=sparse)
    (gradient,) = torch.autograd.grad(layer(p)[0, 0], p)
    assert torch.allclose(gradient, rows((1.0, 0.0)), atol=1e-6)


def test_no_transform_hides_it() -> None:
    layer = NLP(quartic, start=rows(1.0), batch_dims=0, executor="serial")
    with pytest.raises(FoldError, match="curvature"):
        torch.func.vmap(torch.func.grad(lambda p: layer(p).sum()))(rows(-0.5, 0.0))
    with pytest.raises(FoldError, match="curvature"):
        torch.func.jvp(layer, (rows(0.0)[0],), (rows(1.0)[0],))


def test_what_damping_does() -> None:
    """(x₁ + x₂ − p)² has no curvature along (1, −1); least squares moves x by the least."""
    p = rows(1.0).requires_grad_()

    def slope(**options: Any) -> Tensor:
        layer = NLP(
            lambda x, p: (x[0] + x[1] - p) ** 2, start=rows(1.0, 2.0), executor="serial", **options
        )
        return torch.stack(
            [torch.autograd.grad(v, p)[0][0] for v in (layer(p)[0, i] for i in (0, 1))]
        )

    assert torch.allclose(slope(degenerate="least-squares"), rows(0.5, 0.5), atol=1e-9)
    assert torch.allclose(slope(degenerate="damped"), rows(0.5, 0.5), atol=1e-6)
    damped = slope(degenerate="damped", damping=1.0)  # 4·2 / (4² + 4²) with K = 4 there
    assert torch.allclose(damped, rows(0.25, 0.25), atol=1e-9)


def test_only_just_active() -> None:
    """The nearest x ≥ 0 to p at p = 0: the derivative is 0 or 1, and the record says so."""
    layer = NLP(lambda x, p: (x[0] - p) ** 2, bounds=(0.0, None), start=rows(1.0))
    p = rows(0.0, 1.0, -1.0).requires_grad_()
    with fo.record() as seen:
        x = layer(p)
    assert "lower bound of x[0]" in seen[0].messages[0] or "bound of x[0]" in seen[0].messages[0]
    assert "only just active" in seen[0].messages[0]
    assert seen[0].messages[1:] == ("", "")
    (gradient,) = torch.autograd.grad(x.sum(), p)
    assert float(gradient[0]) in (pytest.approx(0.0), pytest.approx(1.0))
    assert torch.allclose(gradient[1:], rows(1.0, 0.0), atol=1e-12)


def test_a_corner_of_which_nothing_is_certain() -> None:
    """x₁x₂ on the quadrant at 0: neither constraint has a multiplier, and without them a saddle."""
    layer = NLP(lambda x, p: p * x[0] * x[1], bounds=(0.0, None), solver=lambda p: rows((0.0, 0.0)))
    p = rows(1.0).requires_grad_()
    with fo.record() as seen:
        x = layer(p)
    assert "Whether this is a minimum is open" in seen[0].messages[0]
    with pytest.raises(FoldError, match="negative curvature"):
        x.sum().backward()


def test_sparse_matrices_see_the_same() -> None:
    p = rows((1.0, 3.0), (1.0, 0.5)).requires_grad_()
    layer = NLP(lambda x, p: (x[0] - p[1]) ** 2, doubled, start=rows(0.0), sparse=True)
    with fo.record() as seen:
        x = layer(p)
    assert "LICQ" in seen[0].messages[0]
    assert seen[0].messages[1] == ""
    with pytest.raises(FoldError, match="LICQ"):
        x.sum().backward()
    saddle = NLP(lambda x, p: x[0] ** 2 - p * x[1] ** 2, n=2, sparse=True)
    with pytest.raises(FoldError, match="no local minimum"):
        saddle(rows(1.0))
    creeping = NLP(lambda x, p: x[1] ** 2 + x[0] ** 4 + p * x[0], start=rows(2.0, 1.0), sparse=True)
    with pytest.raises(FoldError, match="curvature"):
        creeping(rows(0.0).requires_grad_()).sum().backward()
    flat = NLP(lambda x, p: (x[0] * x[1] - p) ** 2, start=rows(2.0, 1.0), sparse=True)
    with pytest.raises(FoldError, match="no curvature"):
        flat(rows(1.0).requires_grad_()).sum().backward()


def test_an_entry_that_the_pattern_misses_is_found_out() -> None:
    """A branch near the solution alone: no random point takes it."""

    def hidden(x: Tensor, p: Tensor) -> Tensor:
        inside = (x - 7).square().sum() < 1e-8
        return (x - 7).square().sum() + torch.where(inside, (x[0] - 7) * (x[1] - p), 0)

    p = rows(7.00001).requires_grad_()
    found = []
    for sparse in (False, True):
        layer = NLP(hidden, solver=lambda p: rows((7.0, 7.0)), sparse=sparse)
        if sparse:
            with pytest.warns(FoldWarning, match="zero at random points"):
                found.append(layer(p))
        else:
            found.append(layer(p))
    grads = [torch.autograd.grad(x[0, 0], p)[0] for x in found]
    assert torch.allclose(found[0], found[1], atol=1e-12)
    assert torch.allclose(grads[0], grads[1], atol=1e-12)
