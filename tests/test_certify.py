"""Never silently wrong: every error and warning of a solution and of the backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, FoldWarning, Status
from tests.problems import F64, newton_root
from tests.roots import C, leaf

# -- the solution -------------------------------------------------------------------------------


def test_a_step_that_does_not_fit_the_solver() -> None:
    wrong = C.sqrt()
    wrong[1:] += 0.5
    with pytest.raises(FoldError, match=r"2 NOT_FIXED \(first: sample 1 of 3\)") as caught:
        fo.fold(newton_root, wrong, leaf())
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, Status.NOT_FIXED, Status.NOT_FIXED]
    assert "above 1e-02" in str(caught.value)
    with torch.no_grad(), pytest.raises(FoldError, match="NOT_FIXED"):
        fo.fold(newton_root, C, C)


def test_a_solution_that_is_nearly_fixed() -> None:
    with pytest.warns(FoldWarning, match=r"moves the solver's answer in 3 of 3 samples by up to"):
        fo.fold(newton_root, C.sqrt() * (1 + 1e-3), leaf(), certify=fo.Certify(warn_above=1e-9))
    near = torch.sqrt(C) + 0.01
    fo.fold(
        lambda x, c: x - 0.01 * (x - c.sqrt()), near, leaf(), certify=fo.Certify(warn_above=1e-3)
    )
    with pytest.raises(FoldError, match="above 1e-06"):
        fo.fold(
            lambda x, c: x - 0.01 * (x - c.sqrt()),
            near,
            leaf(),
            certify=fo.Certify(error_above=1e-6),
        )


def test_the_default_thresholds_follow_the_dtype() -> None:
    def drift(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * c

    for dtype, quiet, loud in ((F64, 4e-6, 4e-5), (torch.float32, 4e-4, 4e-3)):
        c = torch.ones(1, 1, dtype=dtype, requires_grad=True)
        fo.fold(drift, 1 + 4 * quiet * torch.ones(1, 1, dtype=dtype), c)
        with pytest.warns(FoldWarning, match="moves the solver's answer"):
            fo.fold(drift, 1 + 4 * loud * torch.ones(1, 1, dtype=dtype), c)


def test_nan_in_the_solution() -> None:
    x = C.sqrt()
    x[2] = torch.nan
    with pytest.raises(FoldError, match=r"1 NONFINITE \(first: sample 2 of 3\).*holds NaN or inf"):
        fo.fold(newton_root, x, leaf())


def test_nan_in_the_params_is_named_first() -> None:
    data = C.clone()
    data[1] = torch.nan
    folded = fo.folded(newton_root)(
        lambda c: fo.Solution(torch.ones_like(c), [0, Status.MAX_ITERATIONS, 0]),
    )
    data[[0, 2]] = 1.0
    with pytest.raises(FoldError, match=r"1 MAX_ITERATIONS.*The params hold NaN or inf"):
        folded(data)


def test_the_solvers_own_status() -> None:
    codes = torch.tensor([Status.CONVERGED, Status.INFEASIBLE, Status.UNBOUNDED])
    folded = fo.folded(newton_root)(lambda c: fo.Solution(c.sqrt(), codes))
    with pytest.raises(FoldError, match=r"1 INFEASIBLE, 1 UNBOUNDED \(first: sample 1 of 3\)"):
        folded(leaf())
    numpy_codes = fo.folded(newton_root)(lambda c: fo.Solution(c.sqrt().numpy(), np.zeros(3, int)))
    numpy_codes(leaf())


def test_a_status_for_another_batch() -> None:
    folded = fo.folded(newton_root)(lambda c: fo.Solution(c.sqrt(), [0, 0]))
    with pytest.raises(ValueError, match=r"status has shape \(2,\), and x has batch shape \(3,\)"):
        folded(leaf())


def test_a_solver_that_writes_into_its_params() -> None:
    with pytest.raises(FoldError, match="changed one of its params in place"):
        fo.folded(newton_root)(lambda c: c.sqrt_())(leaf())


# -- the backward pass --------------------------------------------------------------------------


def test_a_singular_system() -> None:
    # x ↦ x + (c − c): every x is fixed, and Φ = I.
    x = fo.fold(lambda x, c: x + 0 * c, C.sqrt(), leaf())
    with pytest.raises(FoldError, match=r"Dense did not solve \(I − Φᵀ\) v = g: 3 BREAKDOWN"):
        x.sum().backward()
    with pytest.raises(FoldError, match=r"did not solve \(I − Φ\) t = Ψċ"):
        torch.func.jvp(lambda c: fo.fold(lambda x, c: x + c - C, C.sqrt(), c), (C,), (C,))


@pytest.mark.parametrize(
    ("adjoint", "advice"),
    [
        (fo.LFPI(), "DIVERGED: ρ"),
        (fo.LFPI(max_iterations=3), "DIVERGED"),
        (fo.GMRES(max_iterations=1), "MAX_ITERATIONS: raise max_iterations"),
        (fo.CG(), "STAGNATED|MAX_ITERATIONS"),
    ],
)
def test_advice_for_a_linear_solver_that_fails(adjoint: Any, advice: str) -> None:
    m = torch.tensor([[0.0, 2.0], [-2.0, 0.5]], dtype=F64)
    x_star = torch.linalg.solve(torch.eye(2, dtype=F64) - m, C.T).T
    x = fo.fold(lambda x, c: x @ m.T + c, x_star, leaf(), adjoint=adjoint)
    with pytest.raises(FoldError, match=advice):
        x.sum().backward()
    x = fo.fold(lambda x, c: x @ m.T + c, x_star, leaf(), adjoint=adjoint, on_failure="warn")
    with pytest.warns(FoldWarning, match=advice):
        x.sum().backward()


def test_a_stagnating_solver_is_told_so() -> None:
    x = fo.fold(lambda x, c: x + 0 * c, C.sqrt(), leaf(), adjoint=fo.GMRES())
    with pytest.raises(FoldError, match="STAGNATED: the residual stopped falling"):
        x.sum().backward()


def test_a_gradient_that_is_not_finite() -> None:
    x = fo.fold(newton_root, C.sqrt(), leaf())
    with pytest.raises(FoldError, match=r"3 NONFINITE.*Check the loss"):
        (x * torch.nan).sum().backward()
