"""Work in one thread: for the thread that asks, and no longer than it asks."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest

from foldopt import _threads
from foldopt._threads import one_thread


@pytest.fixture
def openmp() -> Iterator[ctypes.CDLL]:
    library = _threads._openmp()
    if library is None:
        pytest.skip("this PyTorch does not bring GNU's OpenMP")
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(3)
    yield library
    library.omp_set_num_threads(before)


def test_one_thread_inside_and_as_many_as_before_outside(openmp: ctypes.CDLL) -> None:
    with one_thread():
        assert openmp.omp_get_max_threads() == 1
        with one_thread():
            assert openmp.omp_get_max_threads() == 1
        assert openmp.omp_get_max_threads() == 1
    assert openmp.omp_get_max_threads() == 3


def test_an_error_gives_the_threads_back(openmp: ctypes.CDLL) -> None:
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert openmp.omp_get_max_threads() == 3


def test_other_threads_keep_theirs(openmp: ctypes.CDLL) -> None:
    seen = []

    def look() -> None:
        openmp.omp_set_num_threads(2)
        inside.wait(10)
        seen.append(openmp.omp_get_max_threads())
        done.set()

    inside, done = threading.Event(), threading.Event()
    other = threading.Thread(target=look)
    other.start()
    with one_thread():
        inside.set()
        assert done.wait(10)
    other.join()
    assert seen == [2]


def test_without_that_library_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "_openmp", lambda: None)
    with one_thread():
        pass
