"""Tune a portfolio rule on real prices, through the optimizer that it feeds.

Markowitz's plug-in portfolio trusts last year's mean and covariance, and is known to do badly. Here
three numbers say how much to trust them: how far the means are shrunk to their average, how far
the correlations to zero, and how averse to risk the optimizer is told to be. They are learned on
the decisions of 1991–2009 from what the portfolios then earned, by backpropagation through
``fo.nn.Portfolio``, and judged on 2010–2022. Data: 20 stocks of the S&P 500, shipped with skfolio.
"""

from __future__ import annotations

import pathlib
import sys

import torch
from matplotlib.figure import Figure
from skfolio.datasets import load_sp500_dataset
from torch import Tensor

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/markowitz.png"
AVERSION, HOLD, WINDOW = 0.05, 10, 250  # returns are in percent, for each 10 trading days


def observe() -> tuple[Tensor, Tensor, Tensor]:
    """Each decision's past mean and covariance, and the return that came after it."""
    prices = torch.tensor(load_sp500_dataset().to_numpy())
    daily = 100 * (prices[1:] / prices[:-1] - 1)
    days = range(WINDOW, len(daily) - HOLD, HOLD)
    past = torch.stack([daily[day - WINDOW : day] for day in days])
    after = torch.stack([100 * (prices[day + HOLD] / prices[day] - 1) for day in days])
    away = past - past.mean(1, keepdim=True)
    return HOLD * past.mean(1), HOLD * away.mT @ away / (WINDOW - 1), after


def rule(dials: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The weights of every decision, for the three dials."""
    trust_mean, trust_correlation = dials[:2].sigmoid()
    average = mean.mean(-1, keepdim=True)
    variances = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    return fo.nn.Portfolio(form="mean-variance")(
        average + trust_mean * (mean - average),
        variances + trust_correlation * (covariance - variances),
        AVERSION * dials[2].exp(),
    )


def utility(x: Tensor, after: Tensor) -> Tensor:
    """What an investor makes of the returns: their mean less a price for their variance."""
    earned = (x * after).sum(-1)
    return earned.mean() - AVERSION / 2 * earned.var()


def main(quick: bool = False) -> None:
    """Learn on the first 60 % of the decisions, and report on the rest."""
    mean, covariance, after = observe()
    split = 40 if quick else int(0.6 * len(mean))
    learn, test = slice(0, split), slice(split, 2 * split if quick else None)
    dials = torch.tensor([4.0, 4.0, 0.0], dtype=torch.float64, requires_grad=True)  # plug-in
    plug_in = rule(dials.detach(), mean, covariance)

    def loss(dials: Tensor) -> Tensor:
        return -utility(rule(dials, mean[learn], covariance[learn]), after[learn])

    optimizer, losses = torch.optim.Adam([dials], lr=0.3), []
    for _ in range(5 if quick else 80):
        optimizer.zero_grad()
        losses.append(loss(dials))
        losses[-1].backward()
        optimizer.step()
    slope = torch.autograd.grad(loss(dials), dials)[0]
    nudge = 1e-5 * torch.eye(3, dtype=torch.float64)
    seen = torch.stack([loss(dials + e) - loss(dials - e) for e in nudge]).detach() / 2e-5
    assert torch.allclose(slope, seen, rtol=1e-3, atol=1e-6), (slope, seen)
    assert losses[-1] < losses[0]

    trust_mean, trust_correlation = dials.detach()[:2].sigmoid().tolist()
    print(f"trust in means {trust_mean:.3f}, in correlations {trust_correlation:.3f}")
    print(f"aversion to risk × {dials[2].exp().item():.2f}")
    axis = (figure := Figure(figsize=(7, 3.6), layout="constrained")).subplots()
    axis.set(xlabel="decisions, one in ten trading days", ylabel="wealth", yscale="log")
    equal = torch.full_like(plug_in, 1 / plug_in.shape[-1])
    ways = {"tuned": rule(dials.detach(), mean, covariance), "plug-in": plug_in, "equal": equal}
    for name, x in ways.items():
        earned = (x * after).sum(-1)[test]
        sharpe = earned.mean() / earned.std() * (250 / HOLD) ** 0.5
        before, later = utility(x[learn], after[learn]), utility(x[test], after[test])
        print(f"{name:8s} utility {before:.3f}, later {later:.3f}; Sharpe ratio {sharpe:.2f}")
        axis.plot((1 + earned / 100).cumprod(0), label=f"{name}: Sharpe ratio {sharpe:.2f}")
    axis.legend()
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
