"""What every report of the studies carries: adjoint systems compared, and certificates."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

import foldopt as fo
from foldopt.experiments.frame import (
    Journal,
    adjoint_table,
    certificate_table,
    certificates,
    compare_adjoints,
)
from foldopt.experiments.frame.journal import plain

F64 = torch.float64


def linear_step(matrix: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda x, c: x @ matrix.mT + c


def test_adjoint_systems_are_compared_with_the_exact_gradient() -> None:
    torch.manual_seed(0)
    M = torch.randn(6, 6, dtype=F64)
    M = 0.5 * M / torch.linalg.eigvals(M).abs().max()
    c = torch.randn(3, 6, dtype=F64)
    x = torch.linalg.solve(torch.eye(6, dtype=F64) - M, c.mT).mT
    found = compare_adjoints(linear_step(M), x, c, cotangent=torch.randn(3, 6, dtype=F64))
    assert found["median"] == pytest.approx(0.5, rel=1e-6)
    assert found["worst"] == pytest.approx(0.5, rel=1e-6)
    assert not found["singular"]
    assert set(found["solvers"]) == {"LFPI", "GMRES", "BiCGSTAB", "Dense", "Auto"}
    for row in found["solvers"].values():
        assert row["error"] < 1e-9
        assert row["failed"] == 0
    assert found["solvers"]["GMRES"]["products"] <= 7
    assert found["solvers"]["Dense"]["products"] == 6
    assert found["solvers"]["LFPI"]["products"] > 20
    table = adjoint_table({"mine": plain(found)})
    assert table.rows[0][:3] == ("mine", "0.5 / 0.5", "LFPI")
    assert len(table.rows) == 5


def test_a_singular_adjoint_system_is_named() -> None:
    M = torch.diag(torch.tensor([1.0, 0.5], dtype=F64))
    step = lambda x, c: x @ M + c * torch.tensor([0.0, 1.0], dtype=F64)
    c = torch.ones(1, 2, dtype=F64)
    found = compare_adjoints(
        step, torch.tensor([[3.0, 2.0]]).to(F64), c,
        cotangent=torch.tensor([[0.0, 1.0]]).to(F64), solvers=[fo.LFPI(), fo.GMRES()],
    )  # fmt: skip
    assert found["singular"]
    assert found["solvers"]["GMRES"]["error"] < 1e-10
    assert "singular in some sample of mine" in adjoint_table({"mine": found}).note


def test_certificates_count_what_was_masked_and_warned() -> None:
    step = lambda x, c: x + c * (1 - x)  # Φ = 1 − c: singular at c = 0
    c = torch.tensor([[0.5], [0.0], [0.5]], dtype=F64, requires_grad=True)
    x = torch.tensor([[1.0], [1.0], [1.0 + 1e-4]], dtype=F64)
    with certificates() as seen:
        fo.fold(step, x, c, on_failure="mask").sum().backward()
    found = seen.summary()
    assert (found["solved"], found["unsolved"]) == (3, 0)
    assert (found["differentiated"], found["masked"]) == (3, 1)
    assert found["forward"] == pytest.approx(0.5e-4 / 2, rel=1e-2)
    assert found["warned"] == 1
    (row,) = certificate_table({"training": found}).rows
    assert row[0] == "training"
    assert row[4:6] == ("3", "1")


def test_certificates_go_on_after_an_interruption(tmp_path: pathlib.Path) -> None:
    c = torch.tensor([[4.0]], dtype=F64, requires_grad=True)
    journal = Journal(tmp_path, "job")
    journal.begin()

    def train(epochs: int) -> dict[str, Any]:
        with certificates(journal.certificates) as seen:
            for _ in range(epochs):
                fo.fold(lambda x, c: (x + c / x) / 2, c.sqrt().detach() + 1e-4, c).sum().backward()
                journal.checkpoint.touch()
                journal.epoch(loss=0.0)
        return seen.summary()

    first = train(2)
    assert (first["solved"], first["differentiated"], first["warned"]) == (2, 2, 2)
    journal.begin()
    assert train(3) == first | {"solved": 5, "differentiated": 5, "warned": 5}
    assert journal.epochs == 5


def test_other_warnings_go_on_their_way() -> None:
    import warnings

    with pytest.warns(UserWarning, match="mine"), certificates() as seen:
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert seen.summary()["warned"] == 0
