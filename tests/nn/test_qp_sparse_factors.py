"""The factors of sparse KKT matrices: QDLDL and SuperLU give the same."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from foldopt.nn._qp.sparse import refine


def saddle(n: int, r: int, density: float) -> Any:
    draw = np.random.default_rng(0)
    W = sparse.random_array((r, n), density=density, rng=draw) + sparse.eye_array(r, n)
    return sparse.block_array([[sparse.eye_array(n), W.T], [W, None]], format="csc")


@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("density", [0.01, 0.5])
def test_both_solve(density: float, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    K = saddle(60, 20, density)
    right = np.random.default_rng(1).normal(size=(80, columns) if columns else 80)
    expected = np.linalg.solve(K.toarray(), right)
    found = refine.Shifted.of(K, 60)
    assert isinstance(found.factors, refine._LDL) == (density < 0.1)
    np.testing.assert_allclose(found.solve(right).value, expected, rtol=1e-10, atol=1e-12)
    monkeypatch.setitem(sys.modules, "qdldl", None)  # as if it were not installed
    other = refine.Shifted.of(K, 60)
    assert not isinstance(other.factors, refine._LDL)
    np.testing.assert_allclose(other.solve(right).value, expected, rtol=1e-10, atol=1e-12)


def test_a_pivot_of_zero_is_left_to_others() -> None:
    assert refine._LDL.of(sparse.csc_array(np.ones((2, 2)))) is None
