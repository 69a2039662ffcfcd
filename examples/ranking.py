"""Learn to read digits from their order alone.

Nobody tells the network which digit an image shows. It sees five images at a time, and is told
only in which order they should be: supervision as one has it from users who rank results, or from
experts who say which case is worse. The network gives each image a score; the projection on the
permutahedron turns five scores into soft ranks, which are compared with the true ones. Data:
scikit-learn's 8 × 8 digits.
"""

from __future__ import annotations

import pathlib
import sys

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/ranking.png"
COUNT = 5
RANKS = torch.arange(COUNT, 0, -1.0)


def soft_ranks(scores: Tensor, softness: float = 0.3) -> Tensor:
    """Ranks from 1 (the largest) to 5, nearer to one another where scores are close."""
    return fo.projections.permutahedron(-scores / softness, RANKS)


def draw(digits: Tensor, sets: int, random: torch.Generator) -> Tensor:
    """Which images make up each set: five of different digits, ``(sets, 5)``."""
    values = torch.rand(sets, 10, generator=random).argsort(-1)[:, :COUNT]
    noise = torch.rand(sets, COUNT, len(digits), generator=random)
    return torch.where(digits == values[..., None], noise, -1.0).argmax(-1)


def network() -> nn.Module:
    """From images of 64 pixels to one score each."""
    look = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    look += [nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)]
    return nn.Sequential(*look, nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))


def main(quick: bool = False) -> None:
    """Train on sets of the first 1000 images, and order sets of the other 797."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    images, digits = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30 if quick else 1000):
        chosen = draw(digits[:1000], 64, random)
        true = soft_ranks(digits[chosen].float(), 1e-3)  # hard ranks: 1 for the largest digit
        scores = model(images[chosen].reshape(-1, 64)).reshape(chosen.shape)
        loss = (soft_ranks(scores) - true).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        scores = model(images[1000:])
    chosen = draw(digits[1000:], 2000, random)
    right = scores[chosen].argsort(-1) == digits[1000:][chosen].argsort(-1)
    whole, single = float(right.all(-1).float().mean()), float(right.float().mean())
    print(f"of 2000 sets of unseen images {whole:.1%} are in order; by chance 0.8%")
    print(f"of their images {single:.1%} are at their place; by chance 20%")
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10]), (losses[:10], losses[-10:])
    assert quick or whole > 0.65

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    wiggle = 0.3 * (torch.rand(len(scores), generator=random) - 0.5)
    axis.scatter(digits[1000:] + wiggle, scores, s=4)
    axis.set(xlabel="the digit shown, of which the network was never told", ylabel="score")
    axis.set_xticks(range(10))
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
