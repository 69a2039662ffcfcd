"""Linear systems with a prescribed Φ, and steps and solvers that several test files share."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.jacobian import StepJacobian
from foldopt.linear import LinearOperator

F64 = torch.float64


def step_jacobian(phi: Tensor) -> StepJacobian:
    """A recorded step whose Φ is ``phi``, shape ``(B, n, n)``."""

    def update(x: tuple[Tensor, ...], _params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((phi @ x[0].unsqueeze(-1)).squeeze(-1),)

    x = torch.zeros(phi.shape[:-1], dtype=phi.dtype, device=phi.device)
    return StepJacobian(update, (x,), (), 1, ())


def operator(phi: Tensor, *, transpose: bool = True, symmetric: bool = False) -> LinearOperator:
    """A = I − Φᵀ, or I − Φ."""
    return LinearOperator(step_jacobian(phi), transpose, symmetric)


def exact(phi: Tensor, b: Tensor, *, transpose: bool = True) -> Tensor:
    """A⁻¹ b by LAPACK."""
    eye = torch.eye(phi.shape[-1], dtype=phi.dtype, device=phi.device)
    matrix = eye - (phi.mT if transpose else phi)
    return torch.linalg.solve(matrix, b.unsqueeze(-1)).squeeze(-1)


def random_phi(samples: int, n: int, radius: float, dtype: torch.dtype = F64) -> Tensor:
    """Random blocks scaled to the given spectral radius."""
    phi = torch.randn(samples, n, n, dtype=F64)
    if n:
        largest = torch.linalg.eigvals(phi).abs().amax(-1)
        phi = radius * phi / largest[:, None, None]
    return phi.to(dtype)


def nilpotent(samples: int, n: int) -> Tensor:
    """Strictly upper triangular blocks: Φⁿ = 0."""
    return torch.randn(samples, n, n, dtype=F64).triu(1)


def symmetric(samples: int, n: int, low: float, high: float) -> Tensor:
    """Symmetric blocks with eigenvalues between low and high."""
    q, _ = torch.linalg.qr(torch.randn(samples, n, n, dtype=F64))
    values = torch.linspace(low, high, n, dtype=F64) if n > 1 else torch.tensor([high], dtype=F64)
    return q @ torch.diag(values) @ q.mT


def relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖, and ‖a‖ where b is zero."""
    size = torch.linalg.vector_norm(b)
    gap = torch.linalg.vector_norm(a - b)
    return float(gap / size) if size > 0 else float(gap)
