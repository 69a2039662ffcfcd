"""A deep equilibrium model: a network of one layer, iterated until nothing changes.

The features of an image are the z with z = tanh(W z + U image + b). The norm of W is held below 1,
so that there is exactly one such z. ``fo.fixed_point`` finds it and folds it: the memory of the
backward pass is that of one layer, however many iterations it took. A network of the same size
that stops after one layer is trained beside it. Data: scikit-learn's 8 × 8 digits.
"""

from __future__ import annotations

import pathlib
import sys

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/equilibrium.png"
WIDTH = 64


class Layer(nn.Module):
    """One layer, z ↦ tanh(W z + U image + b), with ‖W‖ at most 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH, bias=False)
        self.outer = nn.Linear(64, WIDTH)

    def forward(self, z: Tensor, image: Tensor) -> Tensor:
        W = self.inner.weight
        W = W * (0.9 / torch.linalg.matrix_norm(W, 2).clamp_min(0.9))
        return torch.tanh(z @ W.mT + self.outer(image))


def features(layer: Layer, image: Tensor, depth: int = 0) -> Tensor:
    """The equilibrium, or what so many iterations give, each of them recorded."""
    z = image.new_zeros(len(image), WIDTH)
    return (
        fo.unroll(layer, z, image, iterations=depth) if depth else fo.fixed_point(layer, z, image)
    )


def gradient(layer: Layer, image: Tensor, depth: int) -> tuple[Tensor, int]:
    """Of Σ z² in W, and how many bytes autograd held to compute it."""
    held: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        held[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        total = features(layer, image, depth).square().sum()
    return torch.autograd.grad(total, layer.inner.weight)[0], sum(held.values())


def main(quick: bool = False) -> None:
    """Train on 1000 images, test on the other 797, and compare with unrolling."""
    torch.manual_seed(0)
    images, digits = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float() / 16
    layer, head, losses = Layer(), nn.Linear(WIDTH, 10), []
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(1 if quick else 15):
        for batch in torch.randperm(1000)[: 500 if quick else 1000].split(50):
            loss = cross_entropy(head(features(layer, images[batch])), digits[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], (losses[0], losses[-1])
    with torch.no_grad():
        right = head(features(layer, images[1000:])).argmax(-1) == digits[1000:]
    print(f"{float(right.float().mean()):.1%} of 797 unseen digits are read correctly")
    part = images[1000:1100].double()
    exact, memory = gradient(layer.double(), part, depth=0)
    depths, errors, sizes = (1, 2, 5, 10, 20, 40, 80), [], []
    for depth in depths:
        found, size = gradient(layer, part, depth)
        errors.append(float((found - exact).norm() / exact.norm()))
        sizes.append(size / 1e6)
        print(f"{depth:2d} layers unrolled: {sizes[-1]:5.2f} MB, gradient off by {errors[-1]:.0e}")
    print(f"the equilibrium:    {memory / 1e6:5.2f} MB")
    assert errors[-1] < 1e-2
    axis = (figure := Figure(figsize=(6, 3.4), layout="constrained")).subplots()
    axis.loglog(sizes, errors, "o-", label="unrolled: 1, 2, 5, … 80 layers")
    axis.axvline(memory / 1e6, color="tab:orange", label="equilibrium, folded")
    axis.set(xlabel="memory for the backward pass, MB", ylabel="relative error of the gradient")
    axis.legend()
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
