"""A learned convex regulariser: a small network decides how much to smooth each part of an image.

Total variation needs a weight that fits the noise and the texture. The noise of a night picture
differs from part to part; one weight for all smooths some too much and some too little. Here a
network of 25 numbers looks at two statistics of a noisy tile and gives its weight; it is trained on
the error of the tiles as ``fo.nn.TotalVariation`` denoises them. Trained on scikit-learn's
photographs of a temple and a flower, tested on scikit-image's of a cat and of coffee.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import torch
from matplotlib.figure import Figure
from skimage import data
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/denoising.png"
SIDE = 16

denoise = fo.nn.TotalVariation(dimensions=2)


def tiles(images: list[Any], count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """So many tiles of each image in grey, clean and noisy; each has a noise level of its own."""
    parts = []
    for image in images:
        grey = torch.tensor(image / 255.0).mean(-1)
        every = grey.unfold(0, SIDE, SIDE).unfold(1, SIDE, SIDE).flatten(0, 1)
        parts.append(every[torch.randperm(len(every), generator=random)[:count]])
    clean = torch.cat(parts)
    level = 0.02 + 0.2 * torch.rand(len(clean), 1, 1, generator=random, dtype=clean.dtype)
    return clean, clean + level * torch.randn(clean.shape, generator=random, dtype=clean.dtype)


def statistics(noisy: Tensor) -> Tensor:
    """How large differences are: across one pixel's distance, and in all."""
    across = (noisy[:, 1:, 1:] - noisy[:, 1:, :-1] - noisy[:, :-1, 1:] + noisy[:, :-1, :-1]) / 2
    return torch.stack([across.flatten(1).std(-1), noisy.flatten(1).std(-1)], -1).log()


def psnr(x: Tensor, clean: Tensor) -> float:
    """The peak signal-to-noise ratio, mean over tiles, in dB."""
    return float(-10 * (x - clean).square().mean((1, 2)).log10().mean())


def main(quick: bool = False) -> None:
    """Train the network, and compare with the best single weight for all tiles."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    count, rounds = (4, 2) if quick else (60, 150)
    photographs = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    clean, noisy = tiles(photographs, count, random)
    grid = [0.05, 0.1] if quick else [0.02, 0.03, 0.045, 0.07, 0.1, 0.15]
    best = max(grid, key=lambda weight: psnr(denoise(noisy, weight), clean))
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0)).double()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.03), []
    for _ in range(rounds):
        some = torch.randperm(len(clean), generator=random)[:24]
        x = denoise(noisy[some], best * model(statistics(noisy[some])).exp())
        loss = (x - clean[some]).square().mean((1, 2)).log().mean()  # PSNR, but for a factor
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    truth, seen = tiles([data.chelsea(), data.coffee()], count, random)
    with torch.no_grad():
        weights = best * model(statistics(seen)).exp()
    ways = {"noisy": seen, "one weight": denoise(seen, best), "learned": denoise(seen, weights)}
    score = {name: psnr(x, truth) for name, x in ways.items()}
    print("; ".join(f"{name} {value:.2f} dB" for name, value in score.items()))
    assert torch.isfinite(weights).all()
    assert quick or score["learned"] > score["one weight"] + 0.2, score

    figure = Figure(figsize=(7, 7), layout="constrained")
    for row, tile in zip(
        figure.subplots(4, 4), range(0, len(truth), len(truth) // 4), strict=False
    ):
        for axis, (name, x) in zip(row, {"true": truth, **ways}.items(), strict=True):
            axis.imshow(x[tile].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(title=name, xticks=[], yticks=[])
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
