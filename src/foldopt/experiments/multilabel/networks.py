"""The networks in front of the layer: images to 100 logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["DEFAULT", "DenseNet", "Network", "network"]

Network = Literal["auto", "mlp", "cnn", "densenet"]
DEFAULT: dict[str, Network] = {"digits": "mlp", "fashion-mnist": "cnn", "cifar100": "densenet"}


def network(kind: Network, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """A network with the weights of a seed; the global random state is left alone.

    Parameters
    ----------
    kind
        ``"mlp"``, one hidden layer of 256; ``"cnn"``, two convolutions and a hidden layer of 128;
        ``"densenet"``, DenseNet-40-40, see :class:`DenseNet`.
    shape
        (C, H, W) of an example.
    classes
        How many logits.
    seed
        Of the weights.

    Returns
    -------
    torch.nn.Module
        ``(B, C, H, W)`` to ``(B, classes)``.

    Raises
    ------
    ValueError
        If there is no such network, or the images are too small for it.

    Examples
    --------
    >>> network("mlp", (1, 8, 16), 100, seed=0)(torch.zeros(2, 1, 8, 16)).shape
    torch.Size([2, 100])
    """
    channels, height, width = shape
    if kind != "mlp" and min(height, width) < 4:
        raise ValueError(f"network: {kind} halves images twice, and these are {height} × {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels * height * width, 256),
                nn.ReLU(),
                nn.Linear(256, classes),
            )
        if kind == "cnn":
            return nn.Sequential(
                nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(32 * (height // 4) * (width // 4), 128), nn.ReLU(),
                nn.Linear(128, classes),
            )  # fmt: skip
        if kind == "densenet":
            return DenseNet(channels, classes)
    raise ValueError(f"network: kind must be 'mlp', 'cnn' or 'densenet', got {kind!r}")


class DenseNet(nn.Module):
    """A densely connected network for small images, by default the paper's DenseNet-40-40.

    Three blocks of (depth − 4)/3 layers, each layer a batch norm, a ReLU and a 3 × 3 convolution
    that adds ``growth`` channels to all before it; between blocks a 1 × 1 convolution and a mean
    over 2 × 2; neither bottlenecks nor compression nor dropout.

    Parameters
    ----------
    channels
        Of the images.
    classes
        How many logits.
    depth
        Layers with weights, 4 + 3 m.
    growth
        Channels that a layer adds.

    Raises
    ------
    ValueError
        If the depth is not 4 + 3 m with m ≥ 1.

    References
    ----------
    G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, CVPR 2017, 4700–4708 (arXiv 1608.06993).

    Examples
    --------
    >>> DenseNet(3, 10, depth=7, growth=4)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, channels: int, classes: int, depth: int = 40, growth: int = 40) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 3)
        if rest or layers < 1:
            raise ValueError(f"DenseNet: depth must be 4 + 3 m with m ≥ 1, got {depth}")
        width = 16
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range(layers):
                parts.append(_Growing(width, growth))
                width += growth
            parts += [nn.BatchNorm2d(width), nn.ReLU()]
            if block < 2:
                parts += [nn.Conv2d(width, width, 1, bias=False), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*parts)
        self.logits = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.logits.bias)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, classes)``."""
        return self.logits(self.features(images).mean((-2, -1)))


class _Growing(nn.Module):
    """A layer of a block: what it is given, with what it makes of that behind it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images, self.new(images)], 1)
