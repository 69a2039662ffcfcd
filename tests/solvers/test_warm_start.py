"""WarmStart: previous solutions by key."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch

from foldopt import solvers
from foldopt.status import Solution, Status


def counting(seen: list[Any]) -> Any:
    def one(c: np.ndarray, start: Solution | None = None) -> Solution:
        seen.append(None if start is None else float(start.x[0]))
        return Solution(2 * c, Status.CONVERGED if c[0] >= 0 else Status.MAX_ITERATIONS)

    return one


@pytest.mark.parametrize("executor", [None, "threads"])
def test_the_previous_solution_of_the_same_key_is_the_start(executor: Any) -> None:
    store = solvers.WarmStart()
    seen: list[Any] = []
    one = counting(seen)

    def solve(keys: Any, values: list[float]) -> list[Any]:
        seen.clear()
        with store.at(keys):
            solvers.solve_batch(
                one, torch.tensor(values)[:, None], warm_start=store, executor=executor
            )
        return sorted(seen, key=str)

    assert solve(["a", "b"], [1.0, 2.0]) == [None, None]
    assert solve(["b", "c", "a"], [5.0, 6.0, 7.0]) == [2.0, 4.0, None]
    assert solve(np.array([0, 1]), [1.0, 1.0]) == [None, None]
    assert solve(torch.tensor([1]), [1.0]) == [2.0]
    assert len(store) == 5


def test_only_what_converged_is_kept() -> None:
    store = solvers.WarmStart()
    with store.at("ab"):
        solvers.solve_batch(counting([]), torch.tensor([[-1.0], [1.0]]), warm_start=store)
    assert store.get("a") is None
    assert store.get("b").x == np.array([2.0])


def test_the_one_unused_for_longest_makes_room() -> None:
    store = solvers.WarmStart(capacity=2)
    for key in "ab":
        store.put(key, key)
    store.get("a")
    store.put("c", "c")
    assert [store.get(key) for key in "abc"] == ["a", None, "c"]
    with pytest.raises(ValueError, match="capacity must be an integer of 1 or more, got 0"):
        solvers.WarmStart(0)


def test_keys_are_asked_for() -> None:
    store = solvers.WarmStart()
    c = torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"no keys. Solve inside `with warm_start.at\(keys\):`"):
        solvers.solve_batch(counting([]), c, warm_start=store)
    with store.at("abc"), pytest.raises(ValueError, match="3 keys were given for a batch of 2"):
        solvers.solve_batch(counting([]), c, warm_start=store)


def test_blocks_nest_and_each_thread_has_its_own() -> None:
    store = solvers.WarmStart()
    elsewhere: list[Any] = []
    with store.at("a"):
        with store.at("b"):
            assert store.keys == ["b"]
        assert store.keys == ["a"]
        thread = threading.Thread(target=lambda: elsewhere.append(store.keys))
        thread.start()
        thread.join()
    assert store.keys is None
    assert elsewhere == [None]


def test_a_copy_is_empty() -> None:
    store = solvers.WarmStart(7)
    store.put("a", 1)
    copy = pickle.loads(pickle.dumps(store))
    assert (len(copy), copy.capacity, len(store)) == (0, 7, 1)
