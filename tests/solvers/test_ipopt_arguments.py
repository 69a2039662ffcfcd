"""What Ipopt's front refuses, and the shapes, types and engines it takes."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.solvers._ipopt import engines as module
from foldopt.solvers._ipopt.engines import CODES, VERDICTS
from foldopt.solvers.ipopt import ENGINES, Ipopt

F64 = torch.float64
needs_one = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ENGINES), reason="no package brings Ipopt"
)


def f(x: Tensor, c: Tensor) -> Tensor:
    return ((x - c) ** 2).sum()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Ipopt(3), TypeError, "objective must be callable"),  # pyright: ignore[reportArgumentType]
        (lambda: Ipopt(f, 3), TypeError, "inequality must be callable"),  # pyright: ignore[reportArgumentType]
        (lambda: Ipopt(f, shared=1), TypeError, "shared must be a sequence"),  # pyright: ignore[reportArgumentType]
        (lambda: Ipopt(f, engine="knitro"), ValueError, "no engine 'knitro', only 'auto', 'cas"),
        (lambda: Ipopt(f, sparse="yes"), ValueError, "sparse must be True, False or 'auto'"),  # pyright: ignore[reportArgumentType]
        (lambda: Ipopt(f, batch_dims=2), ValueError, "batch_dims must be 0 or 1"),  # pyright: ignore[reportArgumentType]
        (lambda: Ipopt(f, n=0), ValueError, "n must be an integer of 1 or more"),
        (lambda: Ipopt(f, lower=1.0), ValueError, r"lower must be a tensor .* got 1.0"),  # pyright: ignore[reportArgumentType]
        (lambda: Ipopt(f, upper=torch.ones(())), ValueError, r"upper must .* got \(\)"),
        (lambda: Ipopt(f, rtol=-1), ValueError, "rtol must be a number of 0 or more"),
    ],
)
def test_what_is_refused_at_once(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@needs_one
@pytest.mark.parametrize(
    ("solver", "params", "error", "message"),
    [
        (Ipopt(f), (torch.ones(2, 1),), ValueError, "Give start=, n=, or bounds"),
        (
            Ipopt(f, n=3, lower=torch.zeros(2)),
            (torch.ones(2, 3),),
            ValueError,
            "differs: 3 in n, 2 in lower",
        ),
        (
            Ipopt(f, n=3, start=torch.zeros(2)),
            (torch.ones(2, 3),),
            ValueError,
            "3 in n, 2 in start",
        ),
        (Ipopt(f, n=2, shared=(2,)), (torch.ones(2),), ValueError, "none has number 2"),
        (
            Ipopt(f, start=torch.zeros(3, 2)),
            (torch.ones(2, 2),),
            ValueError,
            "samples",
        ),
        (Ipopt(f, start="here"), (torch.ones(1, 1),), TypeError, "start must be a tensor"),  # pyright: ignore[reportArgumentType]
        (Ipopt(f, start=torch.zeros(1, 1, 1)), (torch.ones(1, 1),), ValueError, "start must be fl"),
        (
            Ipopt(f, start=torch.tensor([torch.inf])),
            (torch.ones(1, 1),),
            ValueError,
            "start holds numbers that are not finite",
        ),
        (Ipopt(f, n=1), (torch.tensor([[torch.nan]]),), ValueError, "param 0 holds NaN"),
        (Ipopt(lambda x, c: x, n=2), (torch.ones(1, 2),), ValueError, "return one number"),
        (
            Ipopt(f, lambda x, c: torch.ones(2, 2), n=2),
            (torch.ones(1, 2),),
            ValueError,
            "must return a vector",
        ),
    ],
)
def test_what_is_refused_in_a_call(
    solver: Ipopt, params: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        solver(*params)


def test_a_missing_engine_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="engine 'casadi' needs the package casadi: pip install"):
        Ipopt(f, n=1)(torch.ones(1, 1))
    with pytest.raises(ImportError, match="engine 'cyipopt' needs the package cyipopt"):
        Ipopt(f, n=1, engine="cyipopt")(torch.ones(1, 1))


def test_every_verdict_is_one_of_ipopts_own() -> None:
    assert set(VERDICTS) <= set(CODES.values())


@needs_one
def test_shapes_and_types() -> None:
    c = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    solution = Ipopt(f, start=torch.zeros(2), executor="serial")(c)
    assert solution.x.dtype == torch.float32
    torch.testing.assert_close(solution.x, c)
    assert [tuple(part.shape) for part in solution.multipliers] == [(2, 0), (2, 0), (2, 2)]
    assert Ipopt(f, n=2, executor="serial")(c.numpy()).x.dtype == F64
    single = Ipopt(f, n=2, batch_dims=0)(c[0])
    torch.testing.assert_close(single.x, c[0])
    assert single.status.shape == ()
    shared = Ipopt(f, shared=(0,), start=torch.zeros(3, 2), executor="serial")(c[0])
    torch.testing.assert_close(shared.x, c[0].expand(3, 2))
    by_call = Ipopt(f, start=lambda c: c + 1, executor="serial")(c)
    torch.testing.assert_close(by_call.x, c)
    nested = Ipopt(lambda x, p: f(x, p["c"]) + p["w"] * x[0], n=2, executor="serial")
    found = nested({"c": c, "w": torch.tensor([2.0, 4.0])}).x
    torch.testing.assert_close(found, c - torch.tensor([[1.0, 0.0], [2.0, 0.0]]))


@needs_one
def test_bounds_of_each_sample() -> None:
    c = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=F64)
    lower = torch.tensor([[2.0, -torch.inf], [-torch.inf, 0.0]], dtype=F64)
    upper = np.array([torch.inf, 1.5])
    solution = Ipopt(f, lower=lower, upper=upper, executor="serial")(c)
    wanted = torch.tensor([[2.0, 1.5], [3.0, 0.0]], dtype=F64)
    torch.testing.assert_close(solution.x, wanted)
    torch.testing.assert_close(solution.multipliers.bounds, 2 * (c - wanted), atol=1e-7, rtol=0)


@needs_one
def test_options_and_tolerances_reach_ipopt() -> None:
    c = torch.tensor([[1.0]], dtype=F64)
    quartic = lambda x, c: ((x - c) ** 4).sum()
    loose = Ipopt(quartic, start=torch.full((1,), 9.0), rtol=1e-2, executor="serial")(c)
    tight = Ipopt(quartic, start=torch.full((1,), 9.0), atol=1e-13, executor="serial")(c)
    assert float((tight.x - c).abs()) < 1e-3 < float((loose.x - c).abs())
    few = Ipopt(quartic, start=torch.full((1,), 9.0), options={"max_iter": 2}, executor="serial")
    assert few(c).status.tolist() == [int(fo.Status.MAX_ITERATIONS)]


@pytest.mark.parametrize("engine", [e for e in ENGINES if importlib.util.find_spec(e)])
def test_an_unknown_option_is_named(engine: str) -> None:
    solver = Ipopt(f, n=1, engine=engine, options={"no_such_option": 1}, executor="serial")
    solution = solver(torch.ones(2, 1))
    assert solution.status.tolist() == [int(fo.Status.FAILED)] * 2
    assert "no_such_option" in solution.messages[0]
