"""Traps of the general fold: any solver, any step. Only ours is asked; some of them catch it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from _traps import WELL, Verdict
from torch import Tensor

import foldopt as fo

Asked = Callable[[Tensor], Tensor]


def newton(x: Tensor, c: Tensor) -> Tensor:
    """Leaves the square root of c where it is."""
    return 0.5 * (x + c / x)


def cost(x: Tensor, c: Tensor) -> Tensor:
    return (x**3 / 3 - c * x).sum(-1)


def judged(asked: Asked, c: Tensor, right: Tensor | None) -> Verdict:
    """The same rule as for the others; ``right`` is the gradient of Σx, None: there is none."""
    leaf = c.clone().requires_grad_()
    try:
        with warnings.catch_warnings(record=True) as heard, fo.record() as seen:
            warnings.simplefilter("always")
            asked(leaf).sum().backward()
    except Exception as failure:
        return Verdict("said", f"raises {type(failure).__name__}")
    said = bool(heard) or any(text for event in seen for text in event.messages)
    found = torch.zeros_like(c) if leaf.grad is None else leaf.grad
    if right is None:
        return (
            Verdict("said", "says so") if said else Verdict("wrong", "no minimum, and a gradient")
        )
    error = float((found - right).norm() / right.norm())
    if error <= WELL:
        return Verdict("right", f"{error:.0e}" + (", says so" if said else ""))
    return Verdict("said", f"says so, {error:.0e}") if said else Verdict(
        "wrong", f"gradient {error:.0e}")  # fmt: skip


def traps() -> Iterator[tuple[str, str, Verdict]]:
    """Name, what it is, and how it went."""
    c = torch.tensor([[9.0], [4.0]], dtype=torch.float64)
    root, slope = c.sqrt(), 0.5 / c.sqrt()
    off = root + torch.tensor([[0.1], [0.0]], dtype=torch.float64)

    def unused(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * (x + root**2 / x)

    def captured(given: Tensor) -> Tensor:
        return fo.fold(lambda x, _: newton(x, given), root, given.detach())

    def mixing(x: Tensor, c: Tensor) -> Tensor:
        return newton(x, c) + 0.25 * (x.mean(0) - root.mean(0))

    def in_place(given: Tensor) -> Tensor:
        return given.sqrt_()

    def lucky(x: Tensor, c: Tensor) -> Tensor:
        return newton(x, 6.5 + (c - c.detach()) + (c.detach() - 6.5)) + 0.1 * (c - c.detach())

    def flat(x: Tensor, c: Tensor) -> Tensor:
        return x - (x.sum(-1, keepdim=True) - c) / 2

    def top(x: Tensor, c: Tensor) -> Tensor:
        return torch.sin(x - c).sum(-1)  # an objective; a maximum at c + π/2

    peak = c + torch.pi / 2
    solver = fo.folded(newton)
    saddle = fo.nn.NLP(
        lambda x, c: (x[0] - c[0]) ** 2 - x[1] ** 2 + x[1] ** 4, n=2, start=torch.zeros(2)
    )
    local = fo.nn.NLP(lambda x, c: ((x**2 - 1) ** 2 + c * x).sum(), n=1, start=torch.ones(1))
    small = torch.full((1, 1), 0.1, dtype=torch.float64)
    # The lower of the two valleys of (x² − 1)² + cx is the left one: 4x³ − 4x + c = 0.
    low = torch.full((1, 1), -1.0, dtype=torch.float64)
    for _ in range(50):
        low = low - (4 * low**3 - 4 * low + small) / (12 * low**2 - 4)
    yield ("inaccurate solver", "3.1 for the root of 9, with Newton's step",
           judged(lambda c: fo.fold(newton, off, c), c, slope))  # fmt: skip
    yield ("inaccurate solver, small step size", "the same with a gradient step of 1e-3, which "
           "hardly moves", judged(lambda c: fo.fold(fo.steps.gradient(cost, 1e-3), off, c), c,
                                  slope))  # fmt: skip
    small_step = fo.steps.gradient(cost, 1e-3)
    yield (
        "the same in float32",
        "where residuals of up to 1e-3 count as an engine's rounding",
        judged(lambda c: fo.fold(small_step, off.float(), c), c.float(), slope.float()),
    )
    yield ("captured tensor", "the step uses a tensor that requires grad and is no param",
           judged(captured, c, slope))  # fmt: skip
    yield ("unused param", "the step does not use the param that requires grad",
           judged(lambda c: fo.fold(unused, root, c), c, slope))  # fmt: skip
    yield ("samples mixed", "the step takes a mean over the batch",
           judged(lambda c: fo.fold(mixing, root, c), c, slope))  # fmt: skip
    yield ("changed in place", "the solver overwrites its param",
           judged(solver(in_place), c, slope))  # fmt: skip
    yield ("other dtype", "the solver returns float32 for float64",
           judged(solver(lambda c: c.sqrt().float()), c, slope))  # fmt: skip
    yield ("diverging step", "x ← x − 3 (x − c): the right fixed point, and ρ(Φ) = 2",
           judged(lambda c: fo.fold(lambda x, c: x - 3 * (x - c), c.detach(), c), c,
                  torch.ones_like(c)))  # fmt: skip
    yield ("not unique", "any x with the sum c is a solution; the loss is not their sum",
           judged(lambda c: fo.fold(flat, c.detach() / 2 * torch.ones(1, 2), c) * torch.tensor(
               [1.0, 2.0]), c, None))  # fmt: skip
    yield ("saddle, nn.NLP", "the start is the saddle of x₁² − x₂² + x₂⁴",
           judged(saddle, torch.zeros(1, 2).double(), None))  # fmt: skip
    yield ("maximum, plain fold", "Newton's step stays at a maximum as at a minimum",
           judged(lambda c: fo.fold(fo.steps.newton(top), peak, c), c, None))  # fmt: skip
    yield ("the higher valley, nn.NLP", "the derivative of the global minimum is asked for; "
           "the start is in the other valley", judged(
               local, small, -1 / (12 * low**2 - 4)))  # fmt: skip
    yield ("right point, wrong step", "a step that stays at x* for this c and not for others",
           judged(lambda c: fo.fold(lucky, root, c), c, slope))  # fmt: skip
