"""Model-predictive control that sees five steps ahead, and acts as if it saw fifteen.

A controller that plans far ahead keeps an inverted pendulum up with little effort, but is slow. One
that plans a few steps is fast, and falls, unless its cost tells it what the states at its horizon
are worth. That terminal cost is learned here: the short plan is a nonlinear program, ``fo.nn.NLP``
differentiates its first torque, and three numbers are fitted so that it is the long plan's.
"""

from __future__ import annotations

import pathlib
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/pendulum.png"
DT, GRAVITY, LIMIT = 0.1, 9.81, 8.0


def move(state: Tensor, torque: Tensor) -> Tensor:
    """The next angle (0 is up) and speed."""
    speed = state[..., 1] + DT * (GRAVITY * torch.sin(state[..., 0]) + torque)
    return torch.stack([state[..., 0] + DT * speed, speed], -1)


def cost(torques: Tensor, state: Tensor, factor: Tensor) -> Tensor:
    """Of a plan: angles and torques, and ‖L state‖² at its end."""
    total = torques.new_zeros(())
    for torque in torques:
        total = total + state[0] ** 2 + 0.02 * torque**2
        state = move(state, torque)
    end = factor[0] * state[0] + factor[1] * state[1]
    return total + end**2 + (factor[2] * state[1]) ** 2


def planner(horizon: int) -> fo.nn.NLP:
    """A layer that plans so many torques, batched."""
    return fo.nn.NLP(cost, bounds=(-LIMIT, LIMIT), solver="sqp", n=horizon, shared=(1,), rtol=1e-9)


def drive(layer: fo.nn.NLP, factor: Tensor, state: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Replan at every step, apply the first torque; the states, and what it cost."""
    states, total = [state], state.new_zeros(len(state))
    with torch.no_grad():
        for _ in range(steps):
            torque = layer(state, factor)[:, 0]
            total = total + state[:, 0] ** 2 + 0.02 * torque**2
            state = move(state, torque)
            states.append(state)
    return torch.stack(states), total


def main(quick: bool = False) -> None:
    """Fit the terminal cost to the long plan's first torques, then let both drive."""
    random = torch.Generator().manual_seed(0)
    span = torch.tensor([0.4, 0.5], dtype=torch.float64)
    states = span * (2 * torch.rand(4 if quick else 24, 2, generator=random).double() - 1)
    nothing = torch.zeros(3, dtype=torch.float64)
    long, short = planner(8 if quick else 15), planner(5)
    wanted = long(states, nothing)[:, 0]

    def loss(factor: Tensor) -> Tensor:
        return (short(states, factor)[:, 0] - wanted).square().mean()

    factor = torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    optimizer, losses = torch.optim.Adam([factor], lr=0.2), []
    for _ in range(4 if quick else 60):
        optimizer.zero_grad()
        losses.append((now := loss(factor)).item())
        now.backward()
        optimizer.step()
    slope = torch.autograd.grad(loss(factor), factor)[0]
    nudge = 1e-5 * torch.eye(3, dtype=torch.float64)
    seen = torch.stack([loss(factor + e) - loss(factor - e) for e in nudge]).detach() / 2e-5
    assert torch.allclose(slope, seen, rtol=1e-3, atol=1e-6), (slope, seen)
    assert losses[-1] < 0.5 * losses[0], losses
    print(f"mean squared error of the first torque: {losses[0]:.3f}, learned {losses[-1]:.5f}")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    spent, ways = {}, {"5 steps": (short, nothing), "15 steps": (long, nothing)}
    ways["5 steps, learned end"] = (short, factor.detach())
    for axis, (name, (layer, end)) in zip(axes, ways.items(), strict=True):
        path, total = drive(layer, end, states[:4], 2 if quick else 20)
        spent[name] = float(total.mean())
        axis.plot(DT * torch.arange(len(path)), path[..., 0])
        axis.set(title=name, xlabel="s", ylim=(-1, 1))
        print(f"{name}: mean cost of 2 s of driving {spent[name]:.4f}")
    axes[0].set_ylabel("angle")
    assert quick or spent["5 steps, learned end"] < 1.01 * spent["15 steps"] < spent["5 steps"]
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
