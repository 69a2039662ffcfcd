"""Infer what power stations bid from the prices that the market publishes.

Hour by hour an AC optimal power flow clears the market of the IEEE 14-bus grid. Its nodal prices
are public, the bids behind them are not. Five stations' bids are found by making the prices of
``fo.nn.ACOPF`` agree with those published: prices are multipliers, and these have derivatives too.
An analyst then knows what each station would ask for its next megawatt.
"""

from __future__ import annotations

import pathlib
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor

from foldopt.nn.acopf import ACOPF

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/power_market.png"


def main(quick: bool = False) -> None:
    """Fit ten numbers to the prices of a day, at 14 buses each hour."""
    torch.set_num_threads(1)
    market = ACOPF("case14", prices=True)
    grid, hours = market.grid, 3 if quick else 12
    random = torch.Generator().manual_seed(0)
    level = torch.linspace(0.6, 1.7, hours, dtype=torch.float64)[:, None]
    sway = 1 + 0.1 * torch.randn(hours, len(grid.pd), generator=random, dtype=torch.float64)
    pd, qd = (level * sway * torch.tensor(load) for load in (grid.pd, grid.qd))
    with torch.no_grad():
        cleared = market(pd, qd)
    published = (100 * cleared.active_prices).round() / 100  # to the cent

    # All bids are taken for alike to begin with: what is asked for at 0 and at 100 MW.
    bids = torch.tensor([[30.0] * 5, [50.0] * 5], dtype=torch.float64)

    def prices(bids: Tensor) -> Tensor:
        return market(pd, qd, quadratic=(bids[1] - bids[0]) / 200, linear=bids[0]).active_prices

    # Levenberg–Marquardt: more trust in the linear model whenever it was right.
    damping, losses = 1e-1, [float((prices(bids) - published).square().mean())]
    for _ in range(2 if quick else 16):
        slope = torch.autograd.functional.jacobian(prices, bids).flatten(2).flatten(0, 1)
        away = (prices(bids) - published).flatten()
        normal = slope.mT @ slope + damping * torch.eye(10, dtype=torch.float64)
        trial = bids - torch.linalg.solve(normal, slope.mT @ away).view(2, 5)
        loss = float((prices(trial) - published).square().mean())
        better = loss < losses[-1]
        bids, damping = (trial, damping / 4) if better else (bids, damping * 8)
        losses.append(min(loss, losses[-1]))
    nudge = torch.zeros(2, 5, dtype=torch.float64)
    nudge[1, 2] = 1e-4
    seen = (prices(bids + nudge) - prices(bids - nudge)) / 2e-4
    slope = torch.autograd.functional.jacobian(prices, bids)[..., 1, 2]
    assert torch.allclose(slope, seen, rtol=1e-4, atol=1e-5), (slope - seen).abs().max()
    assert losses[-1] < losses[0]
    assert quick or losses[-1] < 1e-4, losses

    asked = bids[0] + (bids[1] - bids[0]) / 100 * cleared.pg
    true = torch.tensor(grid.linear) + 2 * torch.tensor(grid.quadratic) * cleared.pg
    inside = (cleared.pg > 0.1) & (cleared.pg < torch.tensor(100 * grid.active[1]) - 0.1)
    off = (asked - true).abs()[inside]
    print(
        f"prices off by {losses[0] ** 0.5:.2f} $/MWh at first, in the end {losses[-1] ** 0.5:.4f}"
    )
    print(f"stations within limits: bids off {off.mean():.2f}, at most {off.max():.2f}")

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for i, colour in enumerate(("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")):
        some = inside[:, i]
        ran = cleared.pg[some, i]
        axis.plot(ran, true[some, i], "o", mfc="none", color=colour)
        axis.plot(
            ran, asked[some, i], color=colour, label=f"at bus {grid.buses[grid.generators[i]]}"
        )
    axis.set(xlabel="output, MW", ylabel="asked for one MW more, $/MWh")
    axis.legend(title="○ true, — inferred")
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
