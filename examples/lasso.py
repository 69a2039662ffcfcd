"""Tune three weights of a lasso at once, through scikit-learn's own solver.

Blood values and their squares and products predict the course of diabetes. Should a lasso punish
these three kinds of features alike? A grid over three weights is slow; here the error on held-out
patients is differentiated in them. Coordinate descent in Cython finds the coefficients, one step of
proximal gradient in PyTorch folds it. Data: scikit-learn's diabetes study, 442 patients.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/lasso.png"

values, progress = load_diabetes(return_X_y=True, scaled=False)
powers = PolynomialFeatures(2, include_bias=False).fit(StandardScaler().fit_transform(values))
exponents = powers.powers_
kept = exponents[:, 1] < 2  # of two sexes, the square is as good as the number itself
kind = np.where(exponents.sum(1) == 1, 0, np.where(exponents.max(1) == 2, 1, 2))[kept]


def split(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Standardised features and targets of 221 patients to fit, 110 to tune and 111 to test."""
    order = np.random.default_rng(seed).permutation(len(values))
    parts = order[:221], order[221:331], order[331:]
    scale = StandardScaler().fit(values[parts[0]])
    features = np.asarray(powers.transform(scale.transform(values)))[:, kept]
    features = StandardScaler().fit(features[parts[0]]).transform(features)
    target = (progress - progress[parts[0]].mean()) / progress[parts[0]].std()
    return [(torch.tensor(features[part]), torch.tensor(target[part])) for part in parts]


def misfit(w: Tensor, X: Tensor, y: Tensor) -> Tensor:
    """The smooth part."""
    return (X @ w - y).square().mean(-1) / 2


step = fo.steps.proximal_gradient(
    objective=lambda w, X, y, weights: misfit(w, X, y),
    prox=lambda w, step_size, weights: fo.prox.l1(w, step_size * weights),
    **{"step_size": 0.05, "prox_params": (2,)},
)


@fo.folded(step, batch_dims=0)
def lasso(X: Tensor, y: Tensor, weights: Tensor) -> np.ndarray:
    """Coordinate descent: columns divided by their weights make them all 1."""
    solver = Lasso(alpha=1.0, fit_intercept=False, tol=1e-12, max_iter=100_000)
    return solver.fit(X.numpy() / weights.numpy(), y.numpy()).coef_ / weights.numpy()


def main(quick: bool = False) -> None:
    """Descend on the error of the middle part, and compare with the best single weight."""
    fit, tune, test = split()

    def error(log_weights: Tensor, part: tuple[Tensor, Tensor]) -> Tensor:
        return 2 * misfit(lasso(*fit, log_weights.exp()[kind]), *part)

    grid = torch.linspace(-5, -1, 41, dtype=torch.float64)
    curve = [error(level.expand(3), tune).item() for level in grid]
    single = grid[np.argmin(curve)].expand(3)
    found = single.clone().requires_grad_()
    optimizer, losses = torch.optim.Adam([found], lr=0.1), []
    for _ in range(3 if quick else 60):
        optimizer.zero_grad()
        losses.append((loss := error(found, tune)).item())
        loss.backward()
        optimizer.step()
    (slope,) = torch.autograd.grad(error(found, tune), found)
    nudge = 1e-5 * torch.eye(3, dtype=torch.float64)
    seen = torch.stack([error(found + e, tune) - error(found - e, tune) for e in nudge]) / 2e-5
    print(f"gradient: off finite differences by {(slope - seen).norm() / seen.norm():.0e}")
    assert torch.allclose(slope, seen, rtol=1e-4, atol=1e-7), (slope, seen)
    assert losses[-1] < losses[0]
    axis = (figure := Figure(figsize=(7, 3.2), layout="constrained")).subplots()
    axis.semilogx(grid.exp(), curve)
    axis.set(xlabel="one weight for all; the line: three weights", ylabel="error")
    axis.axhline(losses[-1], color="tab:orange")
    for name, at in {"one weight": single, "three": found.detach()}.items():
        count = int((lasso(*fit, at.exp()[kind]) != 0).sum())
        weights = [round(value, 4) for value in at.exp().tolist()]
        errors = f"error {error(at, tune):.4f} where tuned, {error(at, test):.4f} on the others"
        print(f"{name} {weights}: {errors}, {count} features")
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
