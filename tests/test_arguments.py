"""Bad arguments get a clear error at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from tests.problems import F64, newton_root

C = torch.tensor([[4.0, 9.0], [16.0, 25.0], [1.0, 2.0]], dtype=F64)


def leaf() -> Tensor:
    return C.clone().requires_grad_()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"adjoint": fo.GMRES}, TypeError, r"adjoint must be an instance: GMRES\(\)"),
        ({"adjoint": "gmres"}, TypeError, "adjoint must be one of Auto"),
        ({"batch_dims": -1}, ValueError, "batch_dims must be an integer of 0 or more, got -1"),
        ({"batch_dims": True}, ValueError, "batch_dims must be an integer"),
        ({"on_failure": "ignore"}, ValueError, "on_failure must be one of"),
        ({"certify": 1e-3}, TypeError, r"certify must be a Certify\(...\), got 0.001"),
        ({"batch_dims": 3}, ValueError, r"with batch_dims=3 every leaf needs the same 3 leading"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fo.fold(newton_root, C.sqrt(), leaf(), **options)
    if options != {"batch_dims": 3}:
        with pytest.raises(error, match=message):
            fo.folded(newton_root, **options)
        with pytest.raises(error, match=message):
            fo.FoldedLayer(torch.sqrt, newton_root, **options)


def test_bad_thresholds() -> None:
    with pytest.raises(ValueError, match="error_above must be above 0, got -1"):
        fo.Certify(error_above=-1.0)
    with pytest.raises(ValueError, match="warn_above must be above 0, got nan"):
        fo.Certify(warn_above=float("nan"))


def test_bad_callables() -> None:
    with pytest.raises(TypeError, match=r"step must be callable, .* got int"):
        fo.fold(3, C, C)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"expected a solver\(\*params\), got int"):
        fo.folded(newton_root)(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="solver must be callable, got int"):
        fo.FoldedLayer(3, newton_root)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("x_star", "error", "message"),
    [
        (torch.ones(3, 2, dtype=torch.int64), TypeError, "an integer solution has no derivative"),
        (torch.ones(3, 2), TypeError, "x_star is torch.float32, the params are torch.float64"),
        ("optimal", TypeError, "x_star: a solution consists of tensors or numpy arrays.*str"),
        ((), TypeError, "the solution holds no tensor"),
        ((C.sqrt(), C[:2]), ValueError, "every leaf needs the same 1 leading"),
        ((C.sqrt(), C.float()), TypeError, "leaves of one dtype and device"),
        (None, TypeError, "NoneType|no tensor"),
    ],
)
def test_bad_solutions(x_star: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fo.fold(newton_root, x_star, leaf())
    with pytest.raises(error, match=message):
        fo.folded(newton_root)(lambda c: x_star)(leaf())


def test_complex_params() -> None:
    with pytest.raises(TypeError, match=r"params: complex tensors .*view_as_real"):
        fo.fold(newton_root, C.sqrt(), torch.ones(2, dtype=torch.complex64))


@pytest.mark.gpu
def test_devices_must_agree(device: torch.device) -> None:
    if device.type == "cuda":
        with pytest.raises(TypeError, match="x_star is on cpu, the params are on cuda"):
            fo.fold(newton_root, C.sqrt(), C.to(device).requires_grad_())
