"""Restarted generalised minimal residuals (Saad & Schultz, 1986)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.linear._common import (
    LinearOperator,
    LinearSolution,
    check_interval,
    norm,
    positive,
    restarted,
    tolerances,
)

__all__ = ["GMRES"]


@dataclasses.dataclass(frozen=True)
class GMRES:
    """Generalised minimal residuals, restarted: for any Φ, also one with ρ(Φ) > 1.

    The smallest residual in span{b, Ab, …}: without a restart no method does better with the same
    number of products. It keeps ``restart + 1`` vectors.

    Parameters
    ----------
    rtol, atol
        Stop once ‖b − A v‖ ≤ atol + rtol ‖b‖. ``rtol=None``: 1.1e-11 in float64, 1.4e-5 in
        float32.
    max_iterations
        At most so many products.
    restart
        The largest number of basis vectors before a restart.

    References
    ----------
    Y. Saad and M. H. Schultz, SIAM J. Sci. Stat. Comput. 7 (1986), 856–869.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> M = torch.tensor([[0.0, 5.0], [0.0, 0.0]], dtype=torch.float64)  # nilpotent
    >>> c = torch.tensor([[1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    >>> x = fo.fold(lambda x, c: x @ M.T + c, torch.tensor([[6.0, 1.0]], dtype=torch.float64), c,
    ...             adjoint=fo.GMRES())
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=6)
    tensor([[1., 5.]], dtype=torch.float64)
    """

    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int = 1000
    restart: int = 50

    def __post_init__(self) -> None:
        tolerances(self.rtol, self.atol)
        positive(max_iterations=self.max_iterations, restart=self.restart)

    def solve(
        self, operator: LinearOperator, b: Tensor, start: Tensor | None = None
    ) -> LinearSolution:
        """Solve A v = b, b of shape ``(*lead, B, n)``, from a first guess or from zero."""
        return restarted(
            self._cycle, operator, b, self.rtol, self.atol, self.max_iterations, "GMRES", start
        )

    def _cycle(
        self, operator: LinearOperator, b: Tensor, tolerance: Tensor, budget: int
    ) -> tuple[Tensor, Tensor]:
        n = b.shape[-1]
        m = min(self.restart, budget, n)
        interval = check_interval(b.device)
        tiny = 8 * torch.finfo(b.dtype).eps
        flat = b.reshape(-1, n)
        beta, tolerance = norm(flat), tolerance.reshape(-1)
        systems = len(flat)
        basis = flat.new_zeros(systems, m + 1, n)
        basis[:, 0] = _normalise(flat, beta, 0.0)
        # A V_m = V_{m+1} H. Givens rotations, gathered in Q, make Q H = R upper triangular; then
        # the least-squares problem min ‖β e₁ − H y‖ reads R y = β Q e₁, and what is left of
        # β Q e₁ below row m is the residual.
        rotations = torch.eye(m + 1, dtype=b.dtype, device=b.device).repeat(systems, 1, 1)
        triangle = flat.new_zeros(systems, m + 1, m)
        iterations = torch.zeros(systems, dtype=torch.int64, device=b.device)
        busy = beta > tolerance
        for j in range(m):
            if j % interval == 0 and not bool(busy.any()):
                break
            w = operator(basis[:, j].reshape(b.shape)).reshape(systems, n)
            scale = norm(w)
            column = flat.new_zeros(systems, m + 1)
            known = basis[:, : j + 1]
            for _ in range(2):  # twice is enough (Kahan, Parlett): orthogonal to rounding
                part = torch.bmm(known, w.unsqueeze(-1)).squeeze(-1)
                w = w - torch.bmm(part.unsqueeze(1), known).squeeze(1)
                column[:, : j + 1] += part
            length = norm(w)
            column[:, j + 1] = torch.where(length > tiny * scale, length, 0)  # happy breakdown
            basis[:, j + 1] = _normalise(w, length, tiny * scale)
            column = torch.bmm(rotations, column.unsqueeze(-1)).squeeze(-1)
            _rotate(rotations, column, j)
            triangle[:, :, j] = column
            iterations = iterations + busy
            busy = busy & (beta * rotations[:, j + 1, 0].abs() > tolerance)
        # Each system uses the columns up to where it stopped; the rest become the identity.
        used = torch.arange(m, device=b.device) < iterations.unsqueeze(-1)
        right = torch.where(used, beta.unsqueeze(-1) * rotations[:, :m, 0], 0)
        square = torch.where(used.unsqueeze(-2) & used.unsqueeze(-1), triangle[:, :m], 0)
        diagonal = square.diagonal(dim1=-2, dim2=-1)
        largest = diagonal.abs().amax(-1, keepdim=True)
        dead = diagonal.abs() <= tiny * largest  # singular, or unused: leave this direction out
        right = torch.where(dead, 0, right)
        square = torch.where(dead.unsqueeze(-1), 0, square)
        square = square + torch.diag_embed(dead.to(square.dtype))
        y = torch.linalg.solve_triangular(square, right.unsqueeze(-1), upper=True)
        d = torch.bmm(y.transpose(1, 2), basis[:, :m]).squeeze(1)
        return d.reshape(b.shape), iterations.reshape(b.shape[:-1])


def _normalise(w: Tensor, length: Tensor, above: Tensor | float) -> Tensor:
    """w / ‖w‖, and zero where ‖w‖ is not above the given bound."""
    keep = length > above
    return torch.where(keep, 1 / torch.where(keep, length, 1), 0).unsqueeze(-1) * w


def _rotate(rotations: Tensor, column: Tensor, j: int) -> None:
    """Rotate rows j and j + 1 so that entry j + 1 of ``column`` becomes zero; in place."""
    a, b = column[:, j].clone(), column[:, j + 1].clone()
    radius = torch.hypot(a, b)
    safe = torch.where(radius > 0, radius, 1)
    c, s = torch.where(radius > 0, a / safe, 1), b / safe
    upper, lower = rotations[:, j].clone(), rotations[:, j + 1].clone()
    rotations[:, j] = c.unsqueeze(-1) * upper + s.unsqueeze(-1) * lower
    rotations[:, j + 1] = c.unsqueeze(-1) * lower - s.unsqueeze(-1) * upper
    column[:, j], column[:, j + 1] = radius, 0
