"""One thread for work that is too small for two.

MKL shares even a triangular system of twenty rows among threads, one system of a batch after the
other. On a quiet machine that gains nothing. Where another core is busy, each system waits for a
thread that does not run. OpenMP's own switch is the calling thread's alone; that of PyTorch is the
whole process's, and what it does to MKL makes batched LU factors wrong (:mod:`foldopt._lu`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import pathlib
from collections.abc import Iterator

import torch

__all__ = ["one_thread"]


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP as PyTorch brings it; None on systems where it does not."""
    for path in sorted((pathlib.Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))
            if library.omp_set_num_threads and library.omp_get_max_threads() > 0:
                return library
    return None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """In here this thread works alone, if that can be had; other threads are not touched."""
    library = _openmp()
    threads = 1 if library is None else library.omp_get_max_threads()
    if library is None or threads == 1:
        yield
        return
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(threads)
