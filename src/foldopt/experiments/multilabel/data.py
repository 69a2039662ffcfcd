"""Labelled images of 100 classes in 20 coarse groups of 5, split without a shared image.

Where no such data can be had, two images of ten classes side by side make one: with labels a and b
the class is 10 a + π(b), where π sends one half of the ten to 0…4 and the other to 5…9. Its coarse
group is class // 5, which is a with the half of b. Real pixels, made-up labels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foldopt.experiments.multilabel.archives import read_cifar100, read_idx

__all__ = ["CLASSES", "Data", "Part", "Source", "load", "noisy"]

Source = Literal["digits", "fashion-mnist", "cifar100"]
CLASSES, GROUPS = 100, 20
# One half of the ten labels, in the order in which π sends them to 0…4; the others follow.
HALVES = {
    "digits": ((0, 3, 6, 8, 9), (1, 2, 4, 5, 7)),  # drawn with round strokes, and with straight
    "fashion-mnist": ((0, 2, 3, 4, 6), (1, 5, 7, 8, 9)),  # tops, and all else
}
_TRAINED = 0.7  # of the digits; the others come with a split of their own


@dataclasses.dataclass(frozen=True)
class Part:
    """One side of the split: examples, each made of one image or of several side by side.

    Attributes
    ----------
    images
        Shape ``(I, C, H, W)``, standardised by the training images.
    members
        Which images make an example, shape ``(N, p)``.
    source
        For each image its number in the source, shape ``(I,)``: no two parts share one.
    label
        What is trained on, shape ``(N,)``; in the training part, with noise.
    truth
        The class, shape ``(N,)``.
    """

    images: Tensor
    members: Tensor
    source: Tensor
    label: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, index: Tensor) -> Tensor:
        """The examples at ``index``, shape ``(B, C, H, p W)``."""
        parts = self.images[self.members[index]]
        return torch.cat(tuple(parts.unbind(1)), -1)

    def to(self, device: str) -> Part:
        """The same on another device."""
        return Part(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples to train on and to test on.

    Attributes
    ----------
    train, test
        The two parts.
    group
        The coarse group of each class, shape ``(100,)``.
    """

    train: Part
    test: Part
    group: Tensor


def load(
    source: Source, folder: Path | None, seed: int, train: int, test: int, noise: float
) -> Data:
    """Load the examples of a source.

    Parameters
    ----------
    source
        ``"digits"``: pairs of scikit-learn's digits; ``"fashion-mnist"``: pairs of its images,
        training pairs from the training files and test pairs from the others; ``"cifar100"``:
        its images.
    folder
        Where the files are; scikit-learn brings the digits itself.
    seed
        Of the split, the pairs and the noise.
    train, test
        How many examples of each; of CIFAR-100 at most as many as there are.
    noise
        The probability with which a training label is drawn anew from its coarse group.

    Returns
    -------
    Data
        The parts; test labels are the true ones.

    Raises
    ------
    FileNotFoundError, ValueError
        If the files are not there, or hold something else; if there is no such source.

    Examples
    --------
    >>> data = load("digits", None, seed=0, train=8, test=4, noise=0.0)
    >>> data.train.batch(torch.arange(2)).shape
    torch.Size([2, 1, 8, 16])
    """
    random = np.random.default_rng([seed, 5])
    if source == "cifar100":
        found = read_cifar100(_needed(folder, source))
        group = _groups(*found["train"][1:])
        before = len(found["train"][0])  # the test images' numbers go on from there
        raw = [
            _single(*found["train"][:2], 0, train, random),
            _single(*found["test"][:2], before, test, random),
        ]
    elif source in HALVES:
        group = np.arange(CLASSES) // (CLASSES // GROUPS)
        place = np.empty(10, np.int64)
        place[[label for half in HALVES[source] for label in half]] = np.arange(10)
        pools = _digits(random) if source == "digits" else _fashion(_needed(folder, source))
        raw = [_paired(*pool, place, count, random) for pool, count in
               zip(pools, (train, test), strict=True)]  # fmt: skip
    else:
        raise ValueError(
            f"load: there is no data {source!r}; choose digits, fashion-mnist or cifar100"
        )
    groups = torch.from_numpy(group)
    pixels = raw[0][0].astype(np.float32)
    # One mean and deviation for each channel, of the training images only.
    mean, deviation = (f(pixels, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    parts = []
    for images, members, numbers, truth in raw:
        standard = torch.from_numpy((images.astype(np.float32) - mean) / deviation)
        label = torch.from_numpy(truth)
        arrays = (torch.from_numpy(members), torch.from_numpy(numbers), label, label)
        parts.append(Part(standard, *arrays))
    trained = parts[0]
    given = noisy(trained.truth, groups, noise, np.random.default_rng([seed, 7]))
    return Data(dataclasses.replace(trained, label=given), parts[1], groups)


def noisy(truth: Tensor, group: Tensor, noise: float, random: np.random.Generator) -> Tensor:
    """Labels of which some are drawn anew, each from the classes of its own coarse group.

    Parameters
    ----------
    truth
        Classes, shape ``(N,)``.
    group
        The coarse group of each class, all of one size.
    noise
        With which probability a label is drawn anew; it may come out as it was.
    random
        Draws them.

    Returns
    -------
    Tensor
        Shape ``(N,)``.

    Examples
    --------
    >>> group = torch.tensor([0, 1, 0, 1])
    >>> drawn = noisy(torch.tensor([0, 1, 2, 3]), group, 1.0, np.random.default_rng(0))
    >>> group[drawn]
    tensor([0, 1, 0, 1])
    """
    size = int((group == group[0]).sum())
    classes = group.argsort(stable=True).reshape(-1, size)  # one row for each group
    drawn = torch.from_numpy(random.integers(size, size=len(truth)))
    anew = torch.from_numpy(random.random(len(truth)) < noise)
    return torch.where(anew, classes[group[truth], drawn], truth)


def _needed(folder: Path | None, source: str) -> Path:
    if folder is None:
        raise ValueError(f"load: --data {source} needs --data-dir, the folder of its files")
    return folder


_Pool = tuple[np.ndarray, np.ndarray, np.ndarray]  # images (I, 1, H, W), labels, their numbers


def _digits(random: np.random.Generator) -> tuple[_Pool, _Pool]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = random.permutation(len(labels))
    cut = int(_TRAINED * len(labels))
    shaped = np.asarray(images, dtype=np.float32).reshape(-1, 1, 8, 8)
    halves = (order[:cut], order[cut:])
    first, second = ((shaped[own], np.asarray(labels)[own], own) for own in halves)
    return first, second


def _fashion(folder: Path) -> tuple[_Pool, _Pool]:
    pools, before = [], 0
    for stem in ("train", "t10k"):
        images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64)
        if images.ndim != 3 or len(images) != len(labels) or labels.max() > 9:
            raise ValueError(
                f"load: the {stem} files in {folder} must hold N images and N labels from 0 to 9; "
                f"they hold {images.shape} and {labels.shape}"
            )
        # Their numbers go on from one file to the next, as those of one source.
        pools.append((images[:, None], labels, before + np.arange(len(labels))))
        before += len(labels)
    return pools[0], pools[1]


def _paired(
    images: np.ndarray, labels: np.ndarray, numbers: np.ndarray, place: np.ndarray,
    count: int, random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Pairs of uniformly drawn classes, each half a uniformly drawn image of its label."""
    wanted = random.integers(10, size=(count, 2))
    members = np.empty((count, 2), np.int64)
    for label in range(10):
        own = np.flatnonzero(labels == label)
        chosen = wanted == label
        members[chosen] = random.choice(own, size=int(chosen.sum()))
    return images, members, numbers, 10 * wanted[:, 0] + place[wanted[:, 1]]


def _single(
    images: np.ndarray, labels: np.ndarray, before: int, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images as they are, a random choice of them; ``before``: the number of the first."""
    own = random.permutation(len(labels))[:count]
    members = np.arange(len(own))[:, None]
    return images[own], members, before + own, labels[own]


def _groups(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The coarse group of each class, as the archive has it: not blocks of the class's number."""
    group = np.full(CLASSES, -1)
    group[fine] = coarse
    if (group[fine] != coarse).any() or (np.bincount(group + 1, minlength=21)[1:] != 5).any():
        raise ValueError(
            "load: the training file must have every class, each in one coarse group, and 5 in "
            "each group"
        )
    return group
