"""One real image: kernels learned on patches of one part, tested on another part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foldopt.experiments.denoising.convolution import HuberVariation, differences
from foldopt.experiments.denoising.data import head
from foldopt.experiments.denoising.plan import Config, array_file
from foldopt.experiments.frame import Journal, certificates, compare_adjoints
from foldopt.learning import Epoch, Examples, Training, fit

__all__ = ["learn", "photograph", "psnr"]

PATCH = 24
_BATCH = 16
_VALIDATION = 32
# Patches come from the columns before this one. Those that choose the epoch may overlap those that
# are trained on: kernels of 36 entries remember no pixels.
_LEFT = 470
_TEST = (slice(150, 310), slice(480, 640))
_GRID = (4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 18.0, 22.0, 27.0)
# Patches for the adjoint table, small enough to write Φ out.
_SMALL, _FEW = 12, 4


def photograph() -> Tensor:
    """A photograph of a temple in grey, ``(427, 640)`` from 0 to 255, as scikit-learn ships it."""
    from sklearn.datasets import load_sample_image

    return torch.as_tensor(np.array(load_sample_image("china.jpg"), dtype=np.float64)).mean(-1)


def psnr(mean_squared_error: float) -> float:
    """The peak signal-to-noise ratio in dB, for grey levels up to 255.

    Examples
    --------
    >>> round(psnr(25.0**2), 2)
    20.17
    """
    return 10 * math.log10(255**2 / mean_squared_error)


def error(x: Tensor, clean: Tensor) -> Tensor:
    """The mean squared error within the frame of one pixel, which no kernel sees in full."""
    return (x - clean)[:, 1:-1, 1:-1].square().mean()


class Kernels(nn.Module):
    """Total variation with learned kernels, differences to begin with.

    Parameters
    ----------
    count
        2 or 4 of them.
    weight
        λ.
    """

    def __init__(self, count: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.variation = HuberVariation()
        self.free = nn.Parameter(differences(count))

    @property
    def kernels(self) -> Tensor:
        """``(C, 3, 3)``, of sum zero: a constant image must cost nothing, however bright."""
        return self.free - self.free.mean((-2, -1), keepdim=True)

    def forward(self, d: Tensor) -> Tensor:
        """Images ``(B, H, W)`` to images."""
        return self.variation(d, self.kernels, self.weight)


def learn(config: Config, seed: int, journal: Journal) -> dict[str, Any]:
    """Train kernels for one draw of noise and patches.

    Parameters
    ----------
    config
        Of the study.
    seed
        Of patches, noise, and the order of the batches.
    journal
        Where epochs and the checkpoint go.

    Returns
    -------
    dict
        PSNR of each method on the test part, λ of each, the kernels, certificates, and the adjoint
        systems. The pictures lie beside it.
    """
    random = torch.Generator().manual_seed(seed)
    whole = photograph()
    noisy = whole + config.image_sigma * torch.randn(
        whole.shape, generator=random, dtype=whole.dtype
    )
    both = _patches(whole, noisy, config.image_patches + _VALIDATION, random)
    learning = head(both, config.image_patches)
    choosing = both.take(torch.arange(config.image_patches, len(both)))
    clean, given = whole[_TEST].unsqueeze(0), noisy[_TEST].unsqueeze(0)

    fixed = {count: _best_fixed(given, clean, count) for count in (2, 4)}
    start, _ = _best_fixed(learning.features, learning.truth, config.image_kernels)
    model = Kernels(config.image_kernels, start)

    def score(d: Tensor, truth: Tensor) -> float:
        with torch.no_grad():
            return error(model(d), truth).item()

    def on_epoch(epoch: Epoch) -> None:
        journal.epoch(training=epoch.loss, validation=epoch.score)

    before, initial = score(given, clean), score(choosing.features, choosing.truth)
    training = Training(config.image_epochs, _BATCH, config.image_learning_rate, seed)
    with certificates(journal.certificates) as seen:
        history = fit(
            model,
            lambda batch: error(model(batch.features), batch.truth),
            learning,
            lambda: score(choosing.features, choosing.truth),
            training,
            on_epoch=on_epoch,
            checkpoint=journal.checkpoint,
        )
    kernels = model.kernels.detach()
    with torch.no_grad():
        pictures = {
            "clean": clean,
            "noisy": given,
            "fixed": HuberVariation()(given, differences(2), fixed[2][0]),
            "learned": model(given),
            "kernels": kernels,
        }
    arrays: dict[str, Any] = {name: value.squeeze(0).numpy() for name, value in pictures.items()}
    np.savez(array_file(journal.folder, journal.key), **arrays)
    return {
        "noisy": psnr(error(given, clean).item()),
        "fixed 2": psnr(fixed[2][1]),
        "fixed 4": psnr(fixed[4][1]),
        "before": psnr(before),
        "learned": psnr(error(pictures["learned"], clean).item()),
        "weights": {"fixed 2": fixed[2][0], "fixed 4": fixed[4][0], "learned": start},
        "curve": [psnr(value) for value in (initial, *history.score)],
        "best": history.best,
        "epoch_seconds": history.seconds / config.image_epochs,
        "certificates": seen.summary(),
        "adjoints": _adjoints(model, head(choosing, _FEW)),
    }


def _patches(whole: Tensor, noisy: Tensor, count: int, random: torch.Generator) -> Examples:
    """Squares from anywhere in the left part of the image."""
    rows = torch.randint(whole.shape[0] - PATCH + 1, (count,), generator=random).tolist()
    columns = torch.randint(_LEFT - PATCH + 1, (count,), generator=random).tolist()
    corners = list(zip(rows, columns, strict=True))
    clean, given = (
        torch.stack([image[i : i + PATCH, j : j + PATCH] for i, j in corners])
        for image in (whole, noisy)
    )
    return Examples(given, clean, clean)


def _best_fixed(given: Tensor, clean: Tensor, count: int) -> tuple[float, float]:
    """The λ at which differences do best on these very images, and its error."""
    variation = HuberVariation(rtol=1e-6)
    with torch.no_grad():
        errors = {
            weight: error(variation(given, differences(count), weight), clean).item()
            for weight in _GRID
        }
    best = min(errors, key=lambda weight: errors[weight])
    return best, errors[best]


def _adjoints(model: Kernels, batch: Examples) -> dict[str, Any]:
    """The backward pass of the trained layer on small patches, with the loss's own cotangent."""
    d, truth = (image[:, :_SMALL, :_SMALL] for image in (batch.features, batch.truth))
    variation, kernels = model.variation, model.kernels.detach().requires_grad_()
    w = variation.solve(d, kernels.detach(), model.weight).x.requires_grad_()
    # What the loss says of w itself; the way of the kernels through Kᵀw needs no adjoint.
    loss = error(variation.image(w, d, kernels.detach()), truth)
    (cotangent,) = torch.autograd.grad(loss, w)
    return compare_adjoints(
        variation.step, w.detach(), d, kernels, model.weight, cotangent=cotangent
    )
