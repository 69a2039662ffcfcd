"""Images from files: IDX, as MNIST's kin come, and the Python archive of CIFAR-100."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_cifar100", "read_idx", "read_plain_pickle"]

_FOLDER = "cifar-100-python"


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes from an IDX file, gzipped or not.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    numpy.ndarray
        uint8, of the shape that the file says.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no IDX file of bytes, or holds more or less than it says.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"read_idx: there is no file {path}. --data-dir must name the folder of the four IDX "
            "files; Debian's package dataset-fashion-mnist puts them in "
            "/usr/share/datasets/fashion-mnist"
        )
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"read_idx: {path} begins with {raw[:4].hex()!r}, and an IDX file of bytes with "
            "'000008' and its number of dimensions: it is another kind of file, or damaged"
        )
    dims = raw[3]
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims]) if len(raw) >= 4 + 4 * dims else ()
    body = raw[4 + 4 * dims :]
    if not shape or len(body) != math.prod(shape):
        raise ValueError(
            f"read_idx: {path} says that its shape is {shape}, and holds {len(body)} values: it "
            "was cut off; fetch it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_cifar100(place: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Read the standard Python archive of CIFAR-100.

    Parameters
    ----------
    place
        The folder ``cifar-100-python``, one that holds it, or ``cifar-100-python.tar.gz``; the
        latter is read without being unpacked.

    Returns
    -------
    dict
        For ``"train"`` and ``"test"``: images, uint8 of shape ``(N, 3, 32, 32)``, their classes,
        and their true coarse groups, both int64 of shape ``(N,)``.

    Raises
    ------
    FileNotFoundError
        If the files are not there.
    ValueError
        If a file does not hold what it should.

    References
    ----------
    A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    parts = {name: _cifar_file(place, name) for name in ("train", "test")}
    return {name: _cifar_part(name, read_plain_pickle(raw)) for name, raw in parts.items()}


def _cifar_file(place: Path, name: str) -> bytes:
    for folder in (place, place / _FOLDER):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    packed = place if place.is_file() else place / f"{_FOLDER}.tar.gz"
    if packed.is_file():
        with tarfile.open(packed) as archive:
            try:
                member = archive.extractfile(f"{_FOLDER}/{name}")
            except KeyError:
                member = None
            if member is not None:
                return member.read()
    raise FileNotFoundError(
        f"read_cifar100: {place} holds neither {_FOLDER}/{name} nor {_FOLDER}.tar.gz. --data-dir "
        "must name the folder of the Python version of CIFAR-100 "
        "(https://www.cs.toronto.edu/~kriz/cifar.html), which this project cannot supply"
    )


def _cifar_part(name: str, found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys = (b"data", b"fine_labels", b"coarse_labels")
    entries = {_bytes(key): value for key, value in found.items()} if type(found) is dict else {}
    if not all(key in entries for key in keys):
        raise ValueError(
            f"read_cifar100: the file {name!r} must hold a dict with data, fine_labels and "
            f"coarse_labels, and holds {sorted(map(str, entries)) or type(found).__name__}: is it "
            "CIFAR-100's, and not CIFAR-10's?"
        )
    data = entries[keys[0]]
    fine, coarse = (np.asarray(entries[key]) for key in keys[1:])
    whole = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2
    if not whole or data.shape != (len(fine), 3072) or fine.shape != coarse.shape:
        shape = data.shape if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(
            f"read_cifar100: the file {name!r} must hold uint8 images of shape (N, 3072) with N "
            f"labels of both kinds; it holds {shape}, {fine.shape} and {coarse.shape}"
        )
    for label, count in ((fine, 100), (coarse, 20)):
        if label.dtype.kind != "i" or label.min() < 0 or label.max() >= count:
            raise ValueError(
                f"read_cifar100: the file {name!r} has labels that are no integers from 0 to "
                f"{count - 1}"
            )
    return data.reshape(-1, 3, 32, 32), fine.astype(np.int64), coarse.astype(np.int64)


def _bytes(key: Any) -> Any:
    return key.encode("latin1") if isinstance(key, str) else key


# -- pickles ----------------------------------------------------------------------------------


def read_plain_pickle(raw: bytes) -> Any:
    """Read a pickle of dicts, lists, text, numbers and numpy arrays, and of nothing else.

    A pickle is a program, and the usual reader calls whatever function it names. Here it may name
    only the three from which numpy arrays are made, and the one that Python 2's text needs.

    Parameters
    ----------
    raw
        The pickle, of Python 2 or 3.

    Returns
    -------
    Any
        What it holds; text of Python 2 as bytes.

    Raises
    ------
    ValueError
        If it names anything else, or is no pickle.

    Examples
    --------
    >>> read_plain_pickle(pickle.dumps({b"data": np.zeros(2, np.uint8)}, protocol=2))
    {b'data': array([0, 0], dtype=uint8)}
    """
    try:
        return _Plain(io.BytesIO(raw), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"read_plain_pickle: this is no pickle of plain arrays ({error}). It is damaged, or "
            "not the file that it is taken for; nothing in it was executed"
        ) from error


class _Plain(pickle.Unpickler):
    """An unpickler that admits no code but numpy's own for arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        arrays = ("numpy.core.multiarray", "numpy._core.multiarray")
        if module in arrays and name == "_reconstruct":
            return _empty_array
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin(text: str, encoding: Any) -> bytes:
    """How protocols 0 to 2 write bytes in Python 3; no other codec is of use here."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _empty_array(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    """The array that ``__setstate__`` fills next; numpy's own writes (0,) and b'b' here."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("it asks for an array that is none of numpy's own")
    return np.ndarray((0,), np.uint8)
