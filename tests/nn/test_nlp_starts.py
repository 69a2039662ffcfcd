"""Where the nonlinear program layer begins, and which optimum it finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn.nlp import NLP
from tests.nlp import rows


def well(x: Tensor, p: Tensor) -> Tensor:
    """Two minima, near −1 and 1; p tilts the scale."""
    return (x[0] ** 2 - 1) ** 2 + p * x[0]


def test_the_start_decides_which_optimum_is_found() -> None:
    layer = NLP(well, start=rows(0.5), executor="serial")
    p = rows(0.1, 0.1)
    assert (layer(p) > 0.9).all()
    assert (layer(p, start=rows(-0.5)) < -0.9).all()
    x = layer(p, start=rows((0.5,), (-0.5,)))
    assert (x * rows((1.0,), (-1.0,)) > 0.9).all()


def test_of_several_starts_the_best_is_kept_and_the_others_are_mentioned() -> None:
    layer = NLP(well, start=rows(0.5), executor="serial")
    p = rows(0.1, -0.1).requires_grad_()
    with fo.record() as seen:
        x = layer(p, starts=rows((0.5,), (-0.5,)))
    assert (x[0] < -0.9).all()
    assert (x[1] > 0.9).all()
    assert all("1 of 2 starts ended in other local optima" in text for text in seen[0].messages)
    # The derivative is that of the branch: 1 / (4 − 12 x²).
    (gradient,) = torch.autograd.grad(x.sum(), p)
    assert torch.allclose(gradient, 1 / (4 - 12 * x.detach()[:, 0] ** 2), atol=1e-10)
    own = layer(p, starts=rows(((0.5,), (0.6,)), ((-0.5,), (-0.6,))))
    assert (own.detach()[:, 0] * p.detach() > 0).all()  # all starts of a sample on one side


def test_random_starts_are_the_same_each_time() -> None:
    def many(starts: int) -> NLP:
        return NLP(
            lambda x, p: torch.cos(2 * x).sum() + p * x.square().sum() + 0.1 * x.sum(),
            bounds=(-9.0, 9.0), start=rows(5.0, 5.0), starts=starts, seed=2, executor="serial",
        )  # fmt: skip

    p = rows(0.05)
    several, again, one = (many(k)(p)[0] for k in (6, 6, 1))
    assert torch.equal(several, again)
    value = [float(torch.cos(2 * x).sum() + 0.05 * x @ x + 0.1 * x.sum()) for x in (several, one)]
    assert value[0] < value[1] - 0.1


@pytest.mark.parametrize("solver", ["ipopt", "sqp"])
def test_a_warm_start_stays_on_the_branch(solver: Any) -> None:
    layer = NLP(well, start=rows(-0.5), solver=solver, warm_start=True, executor="serial")
    p = rows(0.0)
    assert float(layer(p)) < 0
    for tilt in (-0.2, -0.4, -0.8):  # the other optimum is better by now
        assert float(layer(rows(tilt))) < 0
    assert float(layer(p, start=rows(0.5))) > 0
    assert float(layer(p)) > 0  # and so from there


def test_repr_shows_what_is_not_usual() -> None:
    layer = NLP(well, n=1, solver="sqp", starts=3, degenerate="damped")
    assert repr(layer) == "NLP(solver='sqp', starts=3, degenerate='damped')"


def test_no_gradient_wanted_no_graph() -> None:
    layer = NLP(well, start=rows(0.5))
    with torch.no_grad():
        assert not layer(rows(0.1).requires_grad_()).requires_grad
