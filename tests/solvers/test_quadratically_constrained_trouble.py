"""Quadratic constraints that cannot hold or are not convex, and wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foldopt.solvers.quadratically_constrained import ENGINES, QCQP
from foldopt.status import Status
from tests.conic_programs import F64, randn, tensor

INF = float("inf")


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


def test_infeasible_unbounded_and_solved_in_one_batch(engine: Any) -> None:
    # min −x₁, ½x₀² ≤ r, x₁ ≤ u.
    Qs = torch.diag(tensor(1.0, 0.0))[None]
    rs = tensor([2.0], [-1.0], [2.0])
    upper = tensor([INF, 3.0], [INF, 3.0], [INF, INF])
    solution = QCQP(engine)(None, tensor(1.0, -1.0), Qs, None, rs, upper=upper)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.UNBOUNDED]
    torch.testing.assert_close(solution.x[0], tensor(-2.0, 3.0))
    torch.testing.assert_close(solution.multipliers.inequality[0], tensor(0.5))
    torch.testing.assert_close(solution.multipliers.bounds[0], tensor(0.0, 1.0))
    assert solution.x[1:].isnan().all()
    assert all(part[1:].isnan().all() for part in solution.multipliers if part.numel())


def test_bounds_and_rows_that_cannot_hold(engine: Any) -> None:
    Qs, rs = torch.eye(2, dtype=F64)[None], tensor(1.0)
    crossed = QCQP(engine)(None, tensor(1.0, 0.0), Qs, None, rs, lower=1.0, upper=0.0)
    assert crossed.status == Status.INFEASIBLE
    assert crossed.messages == ("lower is above upper",)
    never = QCQP(engine)(None, tensor(1.0, 0.0), Qs, None, rs, G=Qs[0], h=tensor(0.0, -INF))
    assert never.status == Status.INFEASIBLE


def test_a_constraint_that_leaves_one_point_is_not_called_converged_when_it_is_not() -> None:
    # ½‖x‖² ≤ 0: x = 0, and no multiplier exists.
    solution = QCQP()(None, tensor(1.0, 0.0), torch.eye(2, dtype=F64)[None], None, tensor(0.0))
    if solution.status == Status.CONVERGED:
        assert solution.x.abs().max() < 1e-4
    else:
        assert solution.status == Status.INACCURATE


def test_nonconvex_programs_are_refused() -> None:
    eye, p, r = torch.eye(2, dtype=F64), tensor(1.0, 0.0), tensor(1.0, 1.0)
    Qs = torch.stack([eye, torch.diag(tensor(1.0, -1e-3))])
    with pytest.raises(ValueError, match=r"Qs\[1\] is not positive .*-1.00e-03.*Ipopt"):
        QCQP()(None, p, Qs, None, r)
    with pytest.raises(ValueError, match=r"Qs\[2, 1\] is not positive semidefinite"):
        QCQP()(None, p, torch.stack([eye.expand(2, 2, 2)] * 2 + [Qs]), None, r)
    with pytest.raises(ValueError, match=r"QCQP: Q is not positive semidefinite"):
        QCQP()(-eye, p, Qs[:1], None, r[:1])
    # Rounding makes no matrix indefinite.
    F = randn(5, 2).float()
    QCQP()(None, torch.ones(5), (F @ F.T)[None], None, torch.ones(1), lower=-1.0, upper=1.0)


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"Qs": torch.eye(2)}, ValueError, r"Qs must have shape \(1, 2, 2\)"),
        ({"Qs": None}, TypeError, "Qs is None"),
        ({"rs": None}, TypeError, "rs is None"),
        ({"ps": torch.zeros(2)}, ValueError, r"ps must have shape \(1, 2\)"),
        ({"G": torch.zeros(1, 2)}, ValueError, "G and h go together"),
        ({"rs": torch.tensor([INF])}, ValueError, r"rs holds \+inf"),
        ({"Qs": torch.full((1, 2, 2), float("nan"))}, ValueError, "Qs holds NaN"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], match: str) -> None:
    good = {"Q": None, "p": torch.ones(2), "Qs": torch.eye(2)[None], "rs": torch.ones(1)}
    with pytest.raises(kind, match=match):
        QCQP()(**{**good, **arguments})


def test_bad_engine() -> None:
    with pytest.raises(ValueError, match=r"QCQP: engine must be one of .*, got 'ecos'"):
        QCQP("ecos")  # type: ignore[arg-type]
