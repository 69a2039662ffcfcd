"""The multilabel study's data: pairs, splits without leaks, noise, and networks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldopt.experiments.multilabel.data import HALVES, Data, Source, load, noisy
from foldopt.experiments.multilabel.networks import DEFAULT, DenseNet, network
from tests.multilabel import GROUP, write_cifar, write_fashion, write_idx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fashion(tmp_path)
    write_cifar(tmp_path)
    return tmp_path


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
