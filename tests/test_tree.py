"""The quick ways through nested structures are those of torch's pytrees."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree

from foldopt._tree import Layout, flatten, unflatten


class Pair(NamedTuple):
    first: Any
    second: Any


ONE, TWO = torch.ones(3, 2), torch.zeros(3, 4)
TREES = [
    ONE, (ONE,), (ONE, TWO), Pair(ONE, TWO), Pair(ONE, 2.0), Pair((ONE, TWO), [TWO]), [ONE], (),
    {"a": ONE, "b": (TWO,)}, torch.max(ONE, 0),
]  # fmt: skip


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_structures_go_apart_and_together_again(tree: Any) -> None:
    leaves, spec = flatten(tree)
    expected, structure = pytree.tree_flatten(tree)
    assert spec == structure
    assert len(leaves) == len(expected)
    assert all(one is other for one, other in zip(leaves, expected, strict=True))
    again = unflatten(leaves, spec)
    assert type(again) is type(tree)
    assert pytree.tree_structure(again) == structure


def test_structures_of_one_shape_are_told_apart() -> None:
    assert flatten((ONE, TWO))[1] != flatten(Pair(ONE, TWO))[1]
    assert flatten((ONE, TWO))[1] is flatten((TWO, ONE))[1]


@pytest.mark.parametrize("lead", [(), (5,)])
@pytest.mark.parametrize("events", [[(2,)], [(2,), (4,)], [(2,), (2, 3)], [()]])
def test_leaves_become_one_matrix_and_back(
    lead: tuple[int, ...], events: list[tuple[int, ...]]
) -> None:
    layout = Layout(tuple(torch.zeros(3, *event) for event in events), 1)
    leaves = tuple(torch.randn(*lead, 3, *event) for event in events)
    flat = layout.ravel(leaves)
    assert flat.shape == (*lead, 3, layout.n)
    for one, other in zip(layout.unravel(flat), leaves, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
