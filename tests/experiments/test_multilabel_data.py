"""The multilabel study's data: archives, pairs, splits without leaks, noise, and networks."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldopt.experiments.multilabel.archives import read_cifar100, read_idx, read_plain_pickle
from foldopt.experiments.multilabel.data import HALVES, Data, Source, load, noisy
from foldopt.experiments.multilabel.networks import DEFAULT, DenseNet, network

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fashion(tmp_path)
    write_cifar(tmp_path)
    return tmp_path


# -- files ------------------------------------------------------------------------------------


def test_idx_files(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "packed.gz", array)
    assert np.array_equal(read_idx(tmp_path / "packed.gz"), array)
    (tmp_path / "plain").write_bytes(gzip.decompress((tmp_path / "packed.gz").read_bytes()))
    assert np.array_equal(read_idx(tmp_path / "plain"), array)


def test_bad_idx_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        read_idx(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"PNG, say")
    with pytest.raises(ValueError, match="begins with '504e472c'"):
        read_idx(tmp_path / "other")
    whole = b"\x00\x00\x08\x01" + struct.pack(">I", 5) + bytes(4)
    (tmp_path / "cut").write_bytes(whole)
    with pytest.raises(ValueError, match=r"shape is \(5,\), and holds 4"):
        read_idx(tmp_path / "cut")
    (tmp_path / "head").write_bytes(whole[:6])
    with pytest.raises(ValueError, match="was cut off"):
        read_idx(tmp_path / "head")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["above", "inside", "packed", "archive"])
def test_cifar(place: str, protocol: int, tmp_path: Path) -> None:
    inside = write_cifar(tmp_path, protocol)
    raw = pickle.loads((inside / "train").read_bytes())
    where = {"above": tmp_path, "inside": inside}.get(place)
    if where is None:
        where = tmp_path / "elsewhere"
        where.mkdir()
        with tarfile.open(where / "cifar-100-python.tar.gz", "w:gz") as archive:
            archive.add(inside, "cifar-100-python")
        where = where / "cifar-100-python.tar.gz" if place == "archive" else where
    images, fine, coarse = read_cifar100(where)["train"]
    assert images.shape == (200, 3, 32, 32)
    assert images[5, 2, 3, 4] == raw[b"data"][5, 2 * 1024 + 3 * 32 + 4]
    assert fine.tolist() == raw[b"fine_labels"]
    assert coarse.tolist() == raw[b"coarse_labels"]


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


def malicious() -> list[Any]:
    class Codec:
        def __reduce__(self) -> tuple[Any, ...]:
            import codecs

            return codecs.encode, ("x", "rot13")

    return [Harmful(), {"data": [Harmful()]}, Codec(), np.float64, np.array([Harmful()])]


@pytest.mark.parametrize("number", range(5))
def test_a_pickle_cannot_run_anything(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = pickle.dumps(malicious()[number], protocol=2)
    with pytest.raises(ValueError, match="asks for"):
        read_plain_pickle(raw)
    assert not (tmp_path / "made-by-a-pickle").exists()
    with pytest.raises(ValueError, match="no pickle of plain arrays"):
        read_plain_pickle(b"not a pickle")


def test_an_array_of_another_class_is_refused() -> None:
    raw = pickle.dumps(np.zeros(3, np.uint8), protocol=2).replace(
        b"cnumpy\nndarray", b"cnumpy\ndtype"
    )
    with pytest.raises(ValueError, match="none of numpy's own"):
        read_plain_pickle(raw)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop(b"coarse_labels"), "and not CIFAR-10's"),
        (lambda d: d.update({b"data": d[b"data"][:, :9]}), r"\(200, 9\)"),
        (lambda d: d.update({b"data": [1]}), "it holds list"),
        (lambda d: d.update({b"fine_labels": [100] * 200}), "from 0 to 99"),
        (lambda d: d.update({b"coarse_labels": [-1] * 200}), "from 0 to 19"),
    ],
)
def test_other_cifar_files(change: Callable[[dict], Any], says: str, tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "train"
    entries = pickle.loads(path.read_bytes())
    change(entries)
    path.write_bytes(pickle.dumps(entries, protocol=2))
    with pytest.raises(ValueError, match=says):
        read_cifar100(tmp_path)


def test_no_cifar_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Python version of CIFAR-100"):
        read_cifar100(tmp_path)
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz"):
        pass
    with pytest.raises(FileNotFoundError, match="Python version of CIFAR-100"):
        read_cifar100(tmp_path)


# -- examples ---------------------------------------------------------------------------------


SOURCES: tuple[Source, ...] = ("digits", "fashion-mnist", "cifar100")


def loaded(source: Source, folder: Path, seed: int = 4, noise: float = 0.5) -> Data:
    return load(source, folder, seed, train=150, test=80, noise=noise)


@pytest.mark.parametrize("source", SOURCES)
def test_no_image_is_in_both_parts(source: Source, folder: Path) -> None:
    data = loaded(source, folder)
    assert not set(data.train.source.tolist()) & set(data.test.source.tolist())
    for part in (data.train, data.test):
        assert len(part.source) == len(part.images)
        assert len(set(part.source.tolist())) == len(part.source)


def test_no_pixels_of_a_test_digit_are_trained_on() -> None:
    """By the images themselves: only those that the source has twice may be in both parts."""
    from sklearn.datasets import load_digits

    data = load("digits", None, 0, 600, 300, 0.0)
    own, other = (
        {image.numpy().tobytes() for image in part.images} for part in (data.train, data.test)
    )
    every = np.asarray(load_digits(return_X_y=True)[0])
    assert len(own & other) <= 1797 - len(np.unique(every, axis=0))


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_gives_the_same_and_another_another(source: Source, folder: Path) -> None:
    one, same, other = (loaded(source, folder, seed) for seed in (4, 4, 5))
    for name in ("members", "label", "truth", "source"):
        assert torch.equal(getattr(one.train, name), getattr(same.train, name))
    assert not torch.equal(one.train.truth, other.train.truth)


@pytest.mark.parametrize("source", ["digits", "fashion-mnist"])
def test_the_class_of_a_pair(source: Source, folder: Path) -> None:
    """Told from the images: each is looked up in the source by its number."""
    from sklearn.datasets import load_digits

    labels = load_digits(return_X_y=True)[1] if source == "digits" else np.arange(60) % 10
    data = loaded(source, folder)
    left, right = labels[data.train.source[data.train.members]].T
    first, second = HALVES[source]
    assert data.train.truth.tolist() == [
        10 * a + (first.index(b) if b in first else 5 + second.index(b))
        for a, b in zip(left, right, strict=True)
    ]
    assert torch.equal(data.group, torch.arange(100) // 5)


def test_a_batch_puts_images_side_by_side(folder: Path) -> None:
    part = loaded("fashion-mnist", folder).test
    batch = part.batch(torch.tensor([3, 5]))
    assert batch.shape == (2, 1, 28, 56)
    for row, index in enumerate((3, 5)):
        assert torch.equal(batch[row, :, :, :28], part.images[part.members[index, 0]])
        assert torch.equal(batch[row, :, :, 28:], part.images[part.members[index, 1]])


@pytest.mark.parametrize("source", SOURCES)
def test_standardised_by_the_training_images_alone(source: Source, folder: Path) -> None:
    data = loaded(source, folder)
    pixels = data.train.images.double()
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.zeros(()).double(), atol=1e-5)
    assert torch.allclose(pixels.std((0, 2, 3), correction=0), torch.ones(()).double(), atol=1e-4)
    assert abs(float(data.test.images.mean())) > 1e-6


def test_cifars_groups_are_the_archives(folder: Path) -> None:
    data = loaded("cifar100", folder)
    assert data.group.tolist() == GROUP.tolist()
    assert data.train.batch(torch.arange(2)).shape == (2, 3, 32, 32)
    assert len(data.train) == 150
    raw = pickle.loads((folder / "cifar-100-python" / "train").read_bytes())
    fine = np.array(raw[b"fine_labels"])[data.train.source]
    assert data.train.truth.tolist() == fine.tolist()


def test_cifars_groups_must_be_whole(tmp_path: Path) -> None:
    write_cifar(tmp_path, counts=(99, 100))
    with pytest.raises(ValueError, match="must have every class"):
        load("cifar100", tmp_path, 0, 10, 10, 0.0)


@pytest.mark.parametrize("source", SOURCES)
def test_noise_stays_within_the_coarse_group(source: Source, folder: Path) -> None:
    data = loaded(source, folder, noise=1.0)
    assert torch.equal(data.group[data.train.label], data.group[data.train.truth])
    assert not torch.equal(data.train.label, data.train.truth)
    assert torch.equal(data.test.label, data.test.truth)
    clean = loaded(source, folder, noise=0.0)
    assert torch.equal(clean.train.label, clean.train.truth)
    assert torch.equal(clean.train.truth, data.train.truth)


@pytest.mark.parametrize("noise", [0.4, 1.0])
def test_noise_is_uniform_in_the_group(noise: float) -> None:
    count, group = 50_000, torch.from_numpy(GROUP)
    truth = torch.full((count,), 17)
    label = noisy(truth, group, noise, np.random.default_rng(0))
    mates = [index for index in range(100) if GROUP[index] == GROUP[17]]
    for mate in mates:
        expected = noise / 5 + (1 - noise) * (mate == 17)
        share = float((label == mate).double().mean())
        assert abs(share - expected) < 5 * (0.25 / count) ** 0.5


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --data-dir"):
        load("cifar100", None, 0, 10, 10, 0.0)
    with pytest.raises(ValueError, match="there is no data 'mnist'"):
        load("mnist", None, 0, 10, 10, 0.0)  # pyright: ignore[reportArgumentType]
    write_fashion(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(39) % 10)
    with pytest.raises(ValueError, match=r"the t10k files .*\(40, 28, 28\) and \(39,\)"):
        load("fashion-mnist", tmp_path, 0, 10, 10, 0.0)


# -- networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_a_network_has_the_weights_of_its_seed(kind: Any) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (network(kind, (1, 8, 16), 100, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    images = torch.randn(3, 1, 8, 16)
    assert one(images).shape == (3, 100)
    assert torch.equal(one(images), same(images))
    assert not torch.equal(one(images), other(images))


def test_densenet_40_40() -> None:
    model = DenseNet(3, 100)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    # 1 + 3 · 12 layers of 3 × 3 and two transitions, with the logits 40 layers with weights.
    assert len(convolutions) + 1 == 40
    widths = [m.in_channels for m in convolutions if m.kernel_size == (3, 3)][1:]
    assert widths == [16 + 40 * index for index in range(36)]
    assert model.logits.in_features == 16 + 36 * 40
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 100)
    assert DEFAULT["cifar100"] == "densenet"


def test_bad_networks() -> None:
    with pytest.raises(ValueError, match="4 \\+ 3 m"):
        DenseNet(3, 10, depth=9)
    with pytest.raises(ValueError, match="halves images twice"):
        network("cnn", (1, 2, 8), 10, 0)
    with pytest.raises(ValueError, match="kind must be"):
        network("auto", (1, 8, 8), 10, 0)
