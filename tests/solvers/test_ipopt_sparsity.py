"""Which derivatives are zero, and that compressed ones are those that dense ones are."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foldopt._program import Program
from foldopt.solvers._ipopt.derivatives import Oracle, detect
from foldopt.solvers._ipopt.sparsity import compress, full_pattern, pattern_of
from foldopt.solvers.ipopt import ENGINES, Ipopt

F64 = torch.float64


def chain(x: Tensor, c: Tensor) -> Tensor:
    """A nonlinear chain: entry i touches x_i and x_{i+1} only."""
    return (c[0] * (x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x[:-1]) ** 2).sum()


def links(x: Tensor, c: Tensor) -> Tensor:
    return x[:-1] * x[1:].exp() - 3


def hub(x: Tensor, c: Tensor) -> Tensor:
    """One equality with all of x."""
    return (x**2).sum().reshape(1) - len(x)


CHAIN = Program.of(chain, links, hub, (), "test")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.floats(0.05, 0.9))
def test_a_colouring_gives_back_every_entry(m: int, n: int, seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    nonzero = random.random((m, n)) < density
    values = np.where(nonzero, random.standard_normal((m, n)), 0)
    found = compress(nonzero)
    if found.seeds is None:
        entries = found.pick(torch.tensor(values))
    else:
        # Columns of one colour share no row.
        assert ((nonzero @ found.seeds.numpy().T) <= 1).all()
        entries = found.pick((torch.tensor(values) @ found.seeds.mT).mT)
    back = np.zeros((m, n))
    back[found.rows, found.columns] = entries
    np.testing.assert_allclose(back, values)


@settings(deadline=None, max_examples=15)
@given(st.integers(3, 40), st.integers(0, 10**6), st.floats(0, 2))
def test_compressed_derivatives_are_the_dense_ones(n: int, seed: int, sigma: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    c, x = torch.ones(1, dtype=F64), torch.randn(n, dtype=F64, generator=generator)
    y = torch.randn(n, dtype=F64, generator=generator).numpy()
    counts = (n - 1, 1)
    patterns = detect(CHAIN, (c,), x, n, generator), full_pattern(n, n)
    found = []
    for pattern in patterns:
        oracle = Oracle(CHAIN, (c,), pattern, counts)
        jacobian, hessian = np.zeros((n, n)), np.zeros((n, n))
        jacobian[pattern.jacobian_entries] = oracle.jacobian(x.numpy())
        hessian[pattern.hessian.rows, pattern.hessian.columns] = oracle.hessian(x.numpy(), sigma, y)
        assert oracle.error is None
        found.append((jacobian, hessian, oracle.gradient(x.numpy())))
    for sparse, dense in zip(*found, strict=True):
        np.testing.assert_allclose(sparse, dense, rtol=1e-12, atol=1e-12)


def test_the_structure_is_found() -> None:
    n = 30
    x, c = torch.zeros(n, dtype=F64), torch.zeros(1, dtype=F64)  # where almost all is zero
    pattern = detect(CHAIN, (c,), x, n, torch.Generator().manual_seed(0))
    assert len(pattern.jacobian_entries[0]) == 2 * (n - 1) + n
    assert len(pattern.hessian.rows) == n + n - 1  # the lower triangle of a band
    assert pattern.hessian.seeds is not None
    assert len(pattern.hessian.seeds) == 3
    # The row of the hub needs a colour of its own, where columns would all be alone.
    assert pattern.by_rows
    assert pattern.jacobian.seeds is not None
    assert len(pattern.jacobian.seeds) == 3


def test_a_full_column_is_taken_by_columns() -> None:
    arrow = np.eye(20, dtype=bool)
    arrow[:, 0] = True
    pattern = pattern_of(arrow, np.eye(20, dtype=bool))
    assert not pattern.by_rows
    assert pattern.jacobian.seeds is not None
    assert len(pattern.jacobian.seeds) == 2

    program = Program.of(lambda x: (x**2).sum(), lambda x: x * x[0] - 1, None, (), "test")
    x = torch.linspace(1, 2, 20, dtype=F64)
    oracle = Oracle(program, (), pattern, (20, 0))
    dense = np.zeros((20, 20))
    dense[pattern.jacobian_entries] = oracle.jacobian(x.numpy())
    wanted = torch.func.jacrev(lambda x: x * x[0] - 1)(x).numpy()
    np.testing.assert_allclose(dense, wanted)


def test_what_is_not_finite_counts_as_an_entry() -> None:
    program = Program.of(lambda x: x.sum(), lambda x: (x - 1e6).log(), None, (), "test")
    pattern = detect(program, (), torch.zeros(3, dtype=F64), 3, torch.Generator())
    assert len(pattern.hessian.rows) >= 3


def test_params_that_happen_to_be_zero_hide_nothing() -> None:
    program = Program.of(lambda x, Q: x @ Q @ x, lambda x, Q: Q @ x, None, (), "test")
    Q = torch.zeros(4, 4, dtype=F64)
    pattern = detect(program, (Q,), torch.zeros(4, dtype=F64), 4, torch.Generator().manual_seed(0))
    assert len(pattern.jacobian_entries[0]) == 16
    assert len(pattern.hessian.rows) == 10


@pytest.mark.parametrize("engine", [e for e in ENGINES if importlib.util.find_spec(e)])
@pytest.mark.parametrize("n", [8, 60])
def test_the_answer_does_not_depend_on_sparsity(engine: str, n: int) -> None:
    c = torch.tensor([[2.0], [5.0]], dtype=F64)
    options: dict[str, Any] = {
        "start": torch.full((n,), 0.5), "engine": engine, "executor": "serial",
    }  # fmt: skip
    found = [
        Ipopt(chain, links, hub, sparse=sparse, **options)(c) for sparse in (True, False, "auto")
    ]
    for other in found:
        assert other.status.tolist() == [0, 0]
        torch.testing.assert_close(other.x, found[0].x, rtol=1e-6, atol=1e-7)
        for mine, theirs in zip(other.multipliers, found[0].multipliers, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_structures_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipyopt")
    calls: list[int] = []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return detect(*arguments)

    monkeypatch.setattr("foldopt.solvers.ipopt.detect", counted)
    solver = Ipopt(chain, links, start=torch.ones(6), sparse=True, executor="serial")
    for c in (2.0, 3.0):
        solver(torch.tensor([[c]], dtype=F64))
    assert len(calls) == 1
