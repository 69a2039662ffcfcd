"""Reconstruct an accident: the speeds of the cars, from where they came to rest.

Two cars collide, one of them is thrown against a third that was parked, and all three slide to a
stop. Each time step of the physics is a quadratic program: velocities change as little as the
contacts allow, which is the complementarity problem of inelastic contact. ``fo.nn.QP`` solves and
differentiates it, so that the two speeds are found by descent through the whole crash.
"""

from __future__ import annotations

import pathlib
import sys

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/collision.png"
H, STEPS, RADIUS, BRAKE = 0.04, 80, 1.2, 0.7 * 9.81  # s, –, m, m/s²
MASS = torch.tensor([1.4, 1.1, 1.6], dtype=torch.float64)  # tonnes
BEGIN = torch.tensor([[-6.0, 0.3], [0.4, -6.0], [3.0, 3.0]], dtype=torch.float64)
TRUE = torch.tensor([13.0, 12.0], dtype=torch.float64)  # m/s, to the east and to the north
contact = fo.nn.QP()


def advance(place: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
    """Places and velocities after one time step."""
    size = speed.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
    free = speed * (1 - H * BRAKE / size).clamp_min(0)  # friction stops, and turns nothing round
    rows, gaps = [], []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        apart = place[other] - place[one]
        distance = apart.norm()
        row = torch.zeros(3, 2, dtype=place.dtype).index_add(
            0, torch.tensor([one, other]), torch.stack([apart, -apart]) / distance
        )
        rows.append(row.flatten())
        gaps.append((distance - 2 * RADIUS) / H)
    # The nearest velocities, by energy, at which no gap closes to less than nothing.
    inertia = MASS.repeat_interleave(2)
    x = contact(inertia.diag(), -inertia * free.flatten(), torch.stack(rows), torch.stack(gaps))
    return place + H * x.view(3, 2), x.view(3, 2)


def crash(speeds: Tensor) -> Tensor:
    """All places ``(STEPS + 1, 3, 2)``, from the speeds of the first two cars."""
    places = [BEGIN]
    speed = torch.cat([speeds.diag(), torch.zeros(1, 2, dtype=speeds.dtype)])
    for _ in range(STEPS):
        place, speed = advance(places[-1], speed)
        places.append(place)
    return torch.stack(places)


def main(quick: bool = False) -> None:
    """Find the speeds from a wrong guess, and the scene measured to a few centimetres."""
    with torch.no_grad():
        truth = crash(TRUE)
    assert (truth[-1, 2] - BEGIN[2]).norm() > 0.1, "the parked car should be hit"
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    measured = truth[-1] + 0.03 * noise
    speeds = torch.tensor([10.0, 14.5], dtype=torch.float64, requires_grad=True)

    def miss(speeds: Tensor) -> Tensor:
        return (crash(speeds)[-1] - measured).square().sum()

    optimizer, losses = torch.optim.Adam([speeds], lr=0.5), []
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    for _ in range(2 if quick else 60):
        optimizer.zero_grad()
        losses.append(miss(speeds))
        losses[-1].backward()
        optimizer.step()
        schedule.step()
    slope = torch.autograd.grad(miss(speeds), speeds)[0][0]
    nudge = torch.tensor([1e-6, 0.0], dtype=torch.float64)
    with torch.no_grad():
        seen = (miss(speeds + nudge) - miss(speeds - nudge)) / 2e-6
        places = crash(speeds)
    print(f"speeds {speeds[0]:.2f} and {speeds[1]:.2f} m/s; in truth 13 and 12")
    print(f"gradient {slope:.6f}, by finite differences {seen:.6f}")
    print(
        f"misses the measured scene by {losses[-1].sqrt():.3f} m, at first {losses[0].sqrt():.2f} m"
    )
    assert torch.isclose(slope, seen, rtol=1e-3, atol=1e-5), (slope, seen)
    assert losses[-1] < losses[0]
    assert quick or (speeds - TRUE).abs().max() < 0.3, (speeds, losses)

    axis = (figure := Figure(figsize=(5, 4.6), layout="constrained")).subplots()
    axis.set(aspect="equal", xlabel="m", ylabel="m")
    for car, colour in enumerate(("tab:blue", "tab:orange", "tab:green")):
        axis.plot(*places[:, car].T, color=colour)
        for place, style in ((BEGIN, ":"), (measured, "-")):
            axis.add_patch(
                Circle(
                    (float(place[car, 0]), float(place[car, 1])),
                    RADIUS,
                    fill=False,
                    ec=colour,
                    ls=style,
                )
            )
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
