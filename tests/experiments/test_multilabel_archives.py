"""The multilabel study's archives: what is read from them, and what is refused."""

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

from foldopt.experiments.multilabel.archives import read_cifar100, read_idx, read_plain_pickle
from tests.multilabel import write_cifar, write_idx


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
