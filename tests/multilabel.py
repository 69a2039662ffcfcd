"""Small archives of images, and a small config, for the multilabel study."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from foldopt.experiments.multilabel.plan import Config

SMALL = Config(
    seeds=1, epochs=3, train=128, test=50, batch_size=32, cvxpylayers_seeds=0, compared=2
)
OLD = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
GROUP = np.random.default_rng(3).permutation(np.repeat(np.arange(20), 5))  # no blocks of 5


def write_idx(path: Path, array: np.ndarray) -> None:
    head = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def write_fashion(folder: Path, counts: tuple[int, int] = (60, 40)) -> None:
    random = np.random.default_rng(1)
    for stem, count in zip(("train", "t10k"), counts, strict=True):
        images = random.integers(256, size=(count, 28, 28))
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count) % 10)


def write_cifar(folder: Path, protocol: int = 2, counts: tuple[int, int] = (200, 100)) -> Path:
    """A small archive in the format of the real one, which Python 2 wrote."""
    inside = folder / "cifar-100-python"
    inside.mkdir()
    random = np.random.default_rng(2)
    for name, count in zip(("train", "test"), counts, strict=True):
        fine = np.arange(count) % 100
        entries = {
            b"filenames": [b"image_%d.png" % index for index in range(count)],
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": fine.tolist(),
            b"coarse_labels": GROUP[fine].tolist(),
            b"data": random.integers(256, size=(count, 3072)).astype(np.uint8),
        }
        (inside / name).write_bytes(pickle.dumps(entries, protocol=protocol))
    return inside
