"""Random problems for the steps without a gradient step size: dual, splitting, Newton type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _problems import draw, objective
from torch import Tensor

import foldopt as fo


class Case(NamedTuple):
    """A step with its fixed point and params."""

    step: Any
    x: Any
    params: tuple[Any, ...]


def iterated(step: Any, start: Any, *params: Any) -> Any:
    found = fo.fixed_point(step, start, *params, rtol=1e-14, max_iterations=50000)
    return found.detach()


def fdpg() -> Case:
    """Total variation with an operator that has been learned a little."""
    n = int(torch.randint(5, 15, ()))
    D = torch.eye(n)[:-1] - torch.eye(n)[1:] + 0.2 * torch.randn(n - 1, n)
    d, weight = 2 * torch.randn(2, n), 0.3 + torch.rand(())
    step = fo.steps.fdpg()
    return Case(step, iterated(step, torch.zeros(2, n - 1), d, D, weight), (d, D, weight))


def admm(*constraints: str) -> Callable[[], Case]:
    def make() -> Case:
        p, Q = draw()
        n = p.shape[-1]
        sides = {
            "equality": (torch.randn(1, n), torch.zeros(1)),
            "nonnegative": (),
            "box": (torch.full((n,), -0.3), torch.full((n,), 0.4)),
            "inequality": (torch.randn(n, n), torch.rand(n)),
        }
        params = (Q, p, *(side for kind in constraints for side in sides[kind]))
        penalty = float(torch.linalg.matrix_norm(Q).mean() / n**0.5) * float(0.3 + torch.rand(()))
        step = fo.steps.admm_qp(constraints, penalty)
        size = n * len({"nonnegative", "box", "inequality"} & set(constraints))
        return Case(step, iterated(step, torch.zeros(2, size), *params), params)

    return make


def douglas_rachford() -> Case:
    """A ridge and the ℓ1 norm: ½xᵀQx − cᵀx + 0.7‖x‖₁."""
    c, Q = draw()
    eye = torch.eye(c.shape[-1])

    def quadratic(y: Tensor, alpha: float, c: Tensor) -> Tensor:
        return torch.linalg.solve(eye + alpha * Q, y + alpha * c)

    alpha = float(0.1 + 0.5 * torch.rand(()))
    step = fo.steps.douglas_rachford(
        quadratic, lambda y, a: fo.prox.l1(y, 0.7 * a), alpha, f_params=(0,)
    )
    return Case(step, iterated(step, torch.zeros_like(c), c), (c,))


def mirror_descent() -> Case:
    c, Q = draw()
    n = c.shape[-1]
    alpha = float(0.3 + 0.7 * torch.rand(())) / float(torch.linalg.matrix_norm(Q, 2).max())

    def entropic(x: Tensor, c: Tensor, Q: Tensor) -> Tensor:
        return objective(x, c, Q) + (x * x.log()).sum(-1)

    step = fo.steps.mirror_descent(entropic, alpha)
    return Case(step, iterated(step, torch.full_like(c, 1 / n), c, Q), (c, Q))


def single(x: Tensor, c: Tensor, Q: Tensor) -> Tensor:
    return 0.5 * x @ Q @ x - c @ x + torch.logsumexp(x, -1)


def damped_newton() -> Case:
    c, Q = draw()
    x = iterated(fo.steps.newton(single), torch.zeros_like(c), c, Q)
    alpha = float(0.1 + 0.8 * torch.rand(()))
    return Case(fo.steps.newton(single, alpha), x, (c, Q))


def damped(build: Callable[..., Any]) -> Callable[[], Case]:
    """Newton–KKT or SQP with α < 1, on a ball cut by a plane."""

    def make() -> Case:
        c, Q = draw()
        functions = (
            single,
            lambda x, c, Q: torch.stack([x @ x - 0.04, x[0] - 1.0]),
            lambda x, c, Q: x.sum() - 0.1,
        )
        layer = fo.nn.f_pgd_a(single, None, functions[2])  # a start: without the ball
        x = layer(c, Q, x0=torch.zeros_like(c)).detach()
        x = x * (0.2 / torch.linalg.vector_norm(x, dim=-1, keepdim=True)).clamp_max(1)
        point = fo.steps.multipliers(*functions)(x, c, Q)
        full = fo.steps.newton_kkt(*functions)
        with torch.no_grad():
            for _ in range(30):
                point = full(point, c, Q)
        alpha = float(0.1 + 0.8 * torch.rand(()))
        return Case(build(*functions, alpha), point, (c, Q))

    return make


MORE: dict[str, Callable[[], Case]] = {
    "fdpg": fdpg,
    "admm, equality + nonnegative": admm("equality", "nonnegative"),
    "admm, box": admm("box"),
    "admm, inequality": admm("inequality"),
    "douglas_rachford": douglas_rachford,
    "mirror_descent": mirror_descent,
    "newton, α < 1": damped_newton,
    "newton_kkt, α < 1": damped(fo.steps.newton_kkt),
    "sqp, α < 1": damped(fo.steps.sqp),
}
