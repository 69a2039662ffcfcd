"""solve_batch: a function of one instance, lifted; samples, statuses, shapes, dtypes, errors."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import solvers
from foldopt.status import FoldError, Solution, Status

F64 = torch.float64


def triple(c: np.ndarray) -> np.ndarray:
    return 3 * c


def picky(c: np.ndarray) -> np.ndarray:
    """Has no answer for negative numbers."""
    if c[0] < 0:
        raise ArithmeticError(f"{c[0]} is negative")
    return np.sqrt(c)


def test_each_sample_is_solved_on_its_own() -> None:
    seen: list[Any] = []

    def one(A: np.ndarray, b: np.ndarray, scale: float, mode: str) -> np.ndarray:
        seen.append((type(A), A.shape, b.shape, scale, mode))
        return scale * np.linalg.solve(A, b)

    A, b = torch.randn(5, 3, 3, dtype=F64) + 4 * torch.eye(3, dtype=F64), torch.ones(3, dtype=F64)
    solution = solvers.solve_batch(one, A, b, 2.0, "x", in_dims=(0, None, None, None))
    torch.testing.assert_close(solution.x, 2 * torch.linalg.solve(A, b.expand(5, 3)))
    assert seen == [(np.ndarray, (3, 3), (3,), 2.0, "x")] * 5
    assert solution.status.tolist() == [0] * 5
    assert solution.messages == ("",) * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_in_is_dtype_out(dtype: torch.dtype) -> None:
    c = torch.tensor([[1.0], [2.0]], dtype=dtype)
    solution = solvers.solve_batch(lambda c: (c.astype(np.float64) / 3, c.argmax()), c)
    assert solution.x[0].dtype == dtype
    assert solution.x[1].dtype == torch.int64
    assert solution.status.dtype == torch.int64


def test_numpy_in_is_float64_out() -> None:
    assert solvers.solve_batch(triple, np.ones((2, 1), dtype=np.float32)).x.dtype == F64


def test_params_and_answers_may_be_nested() -> None:
    def one(c: dict[str, Any]) -> dict[str, Any]:
        return {"x": c["a"] + c["b"][0], "y": (c["b"][0].sum(), 1)}

    c = {"a": torch.ones(2, 3), "b": (torch.arange(6.0).reshape(2, 3), "text")}
    solution = solvers.solve_batch(one, c)
    torch.testing.assert_close(solution.x["x"], c["a"] + c["b"][0])
    assert solution.x["y"][0].tolist() == [3, 12]


def test_a_sample_that_raises_fails_alone() -> None:
    c = torch.tensor([[4.0], [-1.0], [9.0]])
    solution = solvers.solve_batch(picky, c)
    assert solution.status.tolist() == [0, Status.FAILED, 0]
    assert solution.x[[0, 2]].tolist() == [[2], [3]]
    assert solution.x[1].isnan().all()
    assert solution.messages == ("", "ArithmeticError: -1.0 is negative", "")


def test_statuses_multipliers_gaps_and_messages_are_handed_on() -> None:
    def one(c: np.ndarray) -> Any:
        match int(c[0]):
            case 0:
                return Solution(c, None, (c + 1, None))
            case 1:
                return Solution(None, Status.INFEASIBLE, messages="no point")
            case 2:
                return Solution(c, Status.TIME_LIMIT, (c + 1, None), 0.25, "slow")
            case _:
                return Solution(np.array([np.inf]), None, (c, None))

    solution = solvers.solve_batch(one, torch.arange(4.0, dtype=F64)[:, None])
    assert solution.status.tolist() == [
        Status.CONVERGED, Status.INFEASIBLE, Status.TIME_LIMIT, Status.NONFINITE,
    ]  # fmt: skip
    torch.testing.assert_close(
        solution.x, torch.tensor([[0], [torch.nan], [2], [torch.inf]], dtype=F64), equal_nan=True
    )
    torch.testing.assert_close(
        solution.gap, torch.tensor([torch.nan, torch.nan, 0.25, torch.nan], dtype=F64),
        equal_nan=True,
    )  # fmt: skip
    torch.testing.assert_close(
        solution.multipliers[0], torch.tensor([[1], [torch.nan], [3], [3]], dtype=F64),
        equal_nan=True,
    )  # fmt: skip
    assert solution.messages == ("", "no point", "slow", "")


def test_without_a_batch_the_answer_has_none() -> None:
    solution = solvers.solve_batch(triple, torch.ones(2), in_dims=None)
    assert solution.x.tolist() == [3, 3]
    assert solution.status.shape == ()
    several = solvers.solve_batch(
        lambda c: Solution(c, 0, (c,), 0.5), torch.ones(2), in_dims=(None,)
    )
    assert several.gap is not None
    assert several.gap.shape == ()
    assert several.multipliers[0].shape == (2,)


class Backwards(Executor):
    """Runs what it has been given when asked for a result, the last first."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.order: list[int] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        executor = self

        class Late(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                while executor.waiting:
                    number, late, work, given = executor.waiting.pop()
                    executor.order.append(number)
                    late.set_result(work(*given))
                return super().result(timeout)

        future = Late()
        self.waiting.append((len(self.waiting), future, fn, args))
        return future


@hypothesis.given(st.integers(1, 40), st.integers(1, 7))
@hypothesis.settings(deadline=None, max_examples=30)
def test_the_order_is_that_of_the_samples(samples: int, count: int) -> None:
    c = torch.arange(float(samples))[:, None]
    executor = Backwards()
    executor._max_workers = count  # type: ignore[attr-defined]
    found = solvers.solve_batch(triple, c, executor=executor)
    assert torch.equal(found.x, 3 * c)
    assert executor.order == sorted(executor.order, reverse=True)
    with ThreadPoolExecutor(count) as pool:
        assert torch.equal(solvers.solve_batch(triple, c, executor=pool).x, 3 * c)


def test_it_folds() -> None:
    def one(c: np.ndarray) -> np.ndarray:
        return np.sqrt(c)

    @fo.folded(lambda x, c: 0.5 * (x + c / x))
    def root(c: Tensor) -> Solution:
        return solvers.solve_batch(one, c)

    c = torch.tensor([[4.0], [9.0]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(root, c)


def test_a_fold_repeats_what_the_solver_said() -> None:
    @fo.folded(lambda x, c: 0.5 * (x + c / x))
    def root(c: Tensor) -> Solution:
        return solvers.solve_batch(picky, c)

    c = torch.tensor([[4.0], [-1.0]], requires_grad=True)
    with pytest.raises(FoldError, match=r"1 FAILED .*sample 1: ArithmeticError: -1.0 is neg"):
        root(c)

    masked = fo.folded(lambda x, c: 0.5 * (x + c / x), on_failure="mask")(
        lambda c: solvers.solve_batch(picky, c)
    )
    masked(c)[0].sum().backward()
    assert c.grad is not None
    assert c.grad.tolist() == [[0.25], [0]]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [(torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "-inf")],
)
def test_numbers_that_are_none_are_named_before_anything_runs(value: float, words: str) -> None:
    c = torch.ones(3, 2)
    c[1, 0] = value
    with pytest.raises(ValueError, match=rf"param 1 holds {words} at \[1, 0\] .*no engine was run"):
        solvers.solve_batch(pytest.fail, torch.ones(3, 1), {"c": c})
    with pytest.raises(ValueError, match="param 0 holds"):
        solvers.solve_batch(pytest.fail, c.numpy())
    with pytest.raises(ValueError, match="param 0 holds"):
        solvers.solve_batch(pytest.fail, float(value), in_dims=None)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_params_are_looked_at_too() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    bad = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
    for matrix in (bad.to_sparse(), bad.to_sparse_csr(), sparse.csc_matrix(bad.numpy())):
        with pytest.raises(ValueError, match="param 0 holds NaN"):
            solvers.solve_batch(pytest.fail, matrix, in_dims=None)
    good = torch.eye(2).to_sparse()
    found = solvers.solve_batch(lambda A, b: A @ b, good, torch.ones(3, 2), in_dims=(None, 0))
    assert found.x.tolist() == [[1, 1]] * 3


def test_samples_must_agree() -> None:
    with pytest.raises(ValueError, match=r"param 0 has 3 samples, and param 1 has 2.*in_dims=None"):
        solvers.solve_batch(pytest.fail, torch.ones(3, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match="batch is empty"):
        solvers.solve_batch(triple, torch.ones(0, 1))


def test_answers_must_agree() -> None:
    with pytest.raises(FoldError, match=r"sample 1 has \[\(2,\)\], another one \[\(1,\)\]"):
        solvers.solve_batch(lambda c: np.ones(int(c)), torch.tensor([1.0, 2.0]))
    with pytest.raises(FoldError, match=r"no answer for any of 2 samples: 2 FAILED.*negative"):
        solvers.solve_batch(picky, torch.tensor([[-1.0], [-2.0]]))
    with pytest.raises(FoldError, match=r"returned str"):
        solvers.solve_batch(lambda c: "x", torch.ones(1))


def test_a_missing_package_is_no_failed_sample() -> None:
    def one(c: np.ndarray) -> None:
        raise ImportError("pip install it")

    with pytest.raises(ImportError, match="pip install it"):
        solvers.solve_batch(one, torch.ones(2))


@pytest.mark.parametrize("in_dims", [1, (0,), (0, 2), "ab"])
def test_in_dims(in_dims: Any) -> None:
    with pytest.raises(ValueError, match="in_dims must be 0 or None, or one of them for each of"):
        solvers.solve_batch(pytest.fail, torch.ones(1), torch.ones(1), in_dims=in_dims)


def test_arguments() -> None:
    with pytest.raises(TypeError, match="one must be callable"):
        solvers.solve_batch(3, torch.ones(1))  # type: ignore[arg-type]
    for executor in ("thread", 3):
        with pytest.raises(TypeError, match="executor must be one of"):
            solvers.solve_batch(pytest.fail, torch.ones(1), executor=executor)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the function must return a concurrent.futures.Executor"):
        solvers.solve_batch(pytest.fail, torch.ones(1), executor=lambda: 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="warm_start must be a WarmStart"):
        solvers.solve_batch(pytest.fail, torch.ones(1), warm_start={})  # type: ignore[arg-type]
