"""A direct solve: Φ written out, I − Φ factored once, every right-hand side served from it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt._lu import one_by_one
from foldopt.jacobian import StepJacobian
from foldopt.linear._common import (
    LinearOperator,
    LinearSolution,
    finish,
    norm,
    target,
    tolerances,
)
from foldopt.linear._shared import shared_rows
from foldopt.linear._tiny import solve_tiny
from foldopt.status import Status

__all__ = ["Dense"]

# Looking for zero rows of Φ takes three products; below this n all rows cost no more.
_PROBE_ABOVE = 32


@dataclasses.dataclass(frozen=True)
class Dense:
    """Batched LU of I − Φ, with Φ materialised by products of the recorded step.

    Rows of Φ that are zero cost nothing. A coordinate that a projection or a proximal operator
    holds fixed has such a row; with S the other coordinates,

        (I − Φᵀ) v = g   ⟺   (I − Φ_SS)ᵀ v_S = g_S  and  v = g + Φᵀ(v_S padded with zeros),

    so that only |S| products and a factorisation of size |S| are needed. One probing product
    finds S. The factorisation is kept with the recorded step: the second cotangent, and the
    forward-mode solve, reuse it.

    Parameters
    ----------
    rtol, atol
        The answer counts as solved if ‖b − A v‖ ≤ atol + rtol ‖b‖ or ≤ 32 ε ‖v‖.
        ``rtol=None``: 1.1e-11 in float64, 1.4e-5 in float32.
    least_squares
        Where I − Φ is singular to working precision: answer with the minimum-norm least-squares
        solution (status ``LEAST_SQUARES``) instead of failing (status ``BREAKDOWN``).
    rank_rtol
        Singular values below ``rank_rtol`` times the largest count as zero in that case.
        None: n ε.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    >>> x_star = torch.tensor([[2.0, 2.0]], dtype=torch.float64)
    >>> x = fo.fold(lambda x, c: 0.5 * x + c, x_star, c, adjoint=fo.Dense())
    >>> x.sum().backward()
    >>> c.grad
    tensor([[2., 2.]], dtype=torch.float64)
    """

    rtol: float | None = None
    atol: float = 0.0
    least_squares: bool = False
    rank_rtol: float | None = None

    def __post_init__(self) -> None:
        tolerances(self.rtol, self.atol)
        tolerances(self.rank_rtol, 0.0)

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """Solve A v = b, b of shape ``(*lead, B, n)``."""
        tiny = solve_tiny(operator, b, self.rtol, self.atol)
        if tiny is not None:
            return tiny
        factor = Factor.of(operator.jacobian)
        tolerance = target(b, self.rtol, self.atol)
        v = factor.solve(operator, b)
        residual = factor.residual(operator, b, v)
        k = factor.size
        solution = finish(b, v, residual, tolerance, k, Status.BREAKDOWN, "Dense")
        if not solution.solved and factor.shared:  # were the rows not shared after all?
            operator.jacobian.cache["factor"] = Factor.make(operator.jacobian, sharing=False)
            return self.solve(operator, b)
        if not solution.solved:  # one step of iterative refinement; kept where it helps
            refined = v + factor.solve(operator, residual)
            refined_residual = factor.residual(operator, b, refined)
            better = (norm(refined_residual) < norm(residual)).unsqueeze(-1)
            v = torch.where(better, refined, v)
            residual = torch.where(better, refined_residual, residual)
            # Where I − Φ is large (a step far too long, say), rounding leaves more than of a
            # matrix of size 1: ε ‖A‖ ‖v‖. Pivots tell the size of A. Half the digits must be left.
            eps = torch.finfo(b.dtype).eps
            rounding = torch.minimum(32 * eps * factor.most * norm(v), eps**0.5 * norm(b))
            tolerance = torch.maximum(tolerance, rounding)
            solution = finish(b, v, residual, tolerance, k, Status.BREAKDOWN, "Dense")
        if factor.singular is None:
            return solution
        singular = factor.singular.expand(b.shape[:-1])
        if self.least_squares:
            return self._least_squares(operator, b, solution, singular)
        status = torch.where(singular, int(Status.BREAKDOWN), solution.status)
        return solution._replace(status=status, solved=False)

    def _least_squares(
        self, operator: LinearOperator, b: Tensor, solution: LinearSolution, singular: Tensor
    ) -> LinearSolution:
        """Replace the singular samples' answers by the pseudo-inverse's."""
        phi = operator.jacobian.dense()
        matrix = torch.eye(phi.shape[-1], dtype=phi.dtype, device=phi.device) - phi
        matrix = matrix.mT if operator.transpose else matrix
        rtol = matrix.shape[-1] * torch.finfo(phi.dtype).eps
        inverse = torch.linalg.pinv(matrix, rtol=rtol if self.rank_rtol is None else self.rank_rtol)
        v = torch.where(singular.unsqueeze(-1), _apply(inverse, b), solution.value)
        residual = norm(b - operator(v))
        size = norm(b)
        status = torch.where(singular, int(Status.LEAST_SQUARES), solution.status)
        status = torch.where(torch.isfinite(residual), status, int(Status.NONFINITE))
        relative = residual / torch.where(size > 0, size, 1)
        solved = not bool(Status.failed(status).any())
        return LinearSolution(v, status, solution.iterations, relative, "Dense", solved)


@dataclasses.dataclass(frozen=True)
class Factor:
    """The LU factors of I − Φ_SS for each sample, S padded to the largest of the batch.

    Attributes
    ----------
    lu, pivots
        As ``torch.linalg.lu_factor`` gives them; one matrix if all samples share it.
    size
        k, the size of the largest S.
    index, valid
        S as indices ``(B, k)``, and which of them are not padding; None where S is everything.
    matrix
        I − Φ where it was written out in full, row by row, else None.
    singular
        Boolean ``(B,)``, None if no sample is: the smallest pivot is below n ε times the
        largest. Pivots of a partially pivoted LU bound the singular values only loosely; in
        practice a matrix that is singular to working precision shows it here.
    shared
        Rows of Φ are the same for all samples.
    most
        The largest pivot, at least 1, ``(B,)``, or one for all.
    """

    lu: Tensor
    pivots: Tensor
    size: int
    index: Tensor | None
    valid: Tensor | None
    matrix: Tensor | None
    singular: Tensor | None
    shared: bool
    most: Tensor | float

    @staticmethod
    def of(jacobian: StepJacobian) -> Factor:
        """The factors of a recorded step: made at the first call, kept for the next."""
        if "factor" not in jacobian.cache:
            jacobian.cache["factor"] = Factor.make(jacobian)
        return jacobian.cache["factor"]

    @staticmethod
    def make(jacobian: StepJacobian, sharing: bool = True) -> Factor:
        """Write Φ out, as far as it is needed, and factor I − Φ."""
        samples, n = jacobian.layout.samples, jacobian.layout.n
        probe = jacobian.probe() if n > _PROBE_ABOVE else None
        k = n if probe is None else int((probe != 0).sum(-1).max())
        shared = shared_rows(jacobian, probe, k) if sharing and probe is not None else None
        index = valid = matrix = None
        if probe is None or k == n:
            one_for_all = shared is not None and bool((probe != 0).all())
            if shared is None:
                block = jacobian.dense().neg_()
            elif one_for_all:
                block = shared.unsqueeze(0).neg_()
            else:
                block = shared * (probe != 0).unsqueeze(-1).to(shared.dtype).neg_()
            matrix = block if shared is None else None
        else:
            live = probe != 0
            index = live.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :k]
            valid = live.gather(-1, index)
            columns = index.unsqueeze(1)
            if shared is None:
                block = jacobian.rows(index, valid).gather(-1, columns.expand(-1, k, -1))
            else:
                block = shared[index.unsqueeze(2), columns]
            padding = ~(valid.unsqueeze(1) & valid.unsqueeze(2))
            block = block.neg_().masked_fill_(padding, 0)
        block.diagonal(dim1=-2, dim2=-1).add_(1)  # −Φ becomes I − Φ, in place
        lu, pivots, _ = one_by_one(torch.linalg.lu_factor_ex, block)
        singular, largest = None, 1.0
        if k:
            least, most = torch.aminmax(lu.diagonal(dim1=-2, dim2=-1).abs(), dim=-1)
            singular = ~(least > k * torch.finfo(lu.dtype).eps * most).expand(samples)
            singular = singular if bool(singular.any()) else None
            largest = torch.nan_to_num(most).clamp_min(1)
        return Factor(lu, pivots, k, index, valid, matrix, singular, shared is not None, largest)

    def residual(self, operator: LinearOperator, b: Tensor, v: Tensor) -> Tensor:
        """b − A v; from Φ itself where it is at hand, which saves a product."""
        if self.matrix is None:
            return b - operator(v)
        return b - _apply(self.matrix.mT if operator.transpose else self.matrix, v)

    def solve(self, operator: LinearOperator, b: Tensor) -> Tensor:
        """A⁻¹ b."""
        if self.index is None or self.valid is None:
            return self._triangular(b, operator.transpose)
        if self.size == 0:
            return b + operator.phi(b)
        index = self.index.expand(*b.shape[:-1], self.size)
        if operator.transpose:
            inner = self._triangular(b.gather(-1, index) * self.valid, True) * self.valid
            return b + operator.phi(torch.zeros_like(b).scatter_add(-1, index, inner))
        # Φ has rows S only: t_Z = b_Z outside S, and (I − Φ_SS) t_S = b_S + Φ_SZ b_Z.
        outside = b.scatter(-1, index, torch.where(self.valid, 0, b.gather(-1, index)))
        inner = ((b + operator.phi(outside)).gather(-1, index)) * self.valid
        inner = self._triangular(inner, False) * self.valid
        return outside.scatter_add(-1, index, inner)

    def _triangular(self, b: Tensor, transpose: bool) -> Tensor:
        """(I − Φ_SS)⁻¹ b or its transpose, right-hand sides side by side as columns."""
        if len(self.lu) == 1:  # one system for all
            columns = b.reshape(1, -1, b.shape[-1]).mT
            x = torch.linalg.lu_solve(self.lu, self.pivots, columns, adjoint=transpose)
            return x.mT.reshape(b.shape)
        columns = b.reshape(-1, *b.shape[-2:]).permute(1, 2, 0)
        x = torch.linalg.lu_solve(self.lu, self.pivots, columns, adjoint=transpose)
        return x.permute(2, 0, 1).reshape(b.shape)


def _apply(matrix: Tensor, b: Tensor) -> Tensor:
    """M b for M of shape ``(B, n, n)`` and b of shape ``(*lead, B, n)``."""
    return (matrix @ b.unsqueeze(-1)).squeeze(-1)
