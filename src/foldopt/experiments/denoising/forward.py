"""Enhanced total variation, forward: a semismooth Newton method on the dual box program.

With x = d + Dᵀw the dual of min ½‖x − d‖² + λ‖D x‖₁ is

    min ½‖d + Dᵀw‖²   over   |w| ≤ λ,

with the gradient D x. Let s be the sign of the bound that a coordinate sits on, 0 where it is free.
Given s, the optimality conditions are linear: w = λ s where s ≠ 0, and D x = 0 elsewhere. Their
solution tells the next s: a coordinate leaves its bound where D x would push it inside, and joins
one where |w| > λ. This is Newton's method on w = clip(w − D x / L, ±λ), and it ends as soon as s
repeats: then w is the solution, to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec
from foldopt.solvers import FDPG
from foldopt.status import Solution, Status

__all__ = ["dual_residual", "solve_dual"]

_NEWTON_STEPS = 40
_SHORT = 300


class _Dual(NamedTuple):
    """min ½wᵀA w + cᵀw over |w| ≤ bound, for B samples that share A, or have one each."""

    A: Tensor  # D Dᵀ, (1, m, m) or (B, m, m)
    inverse: Tensor  # of A
    free: Tensor  # −A⁻¹ c, the solution without bounds, (B, m)
    c: Tensor  # D d, (B, m)
    bound: Tensor  # λ, (B, m)

    def take(self, index: Tensor) -> _Dual:
        A, inverse = (one if len(one) == 1 else one[index] for one in (self.A, self.inverse))
        return _Dual(A, inverse, self.free[index], self.c[index], self.bound[index])


def solve_dual(
    d: Tensor,
    D: Tensor,
    weight: Tensor | float,
    *,
    rtol: float = 1e-9,
    max_iterations: int = 20_000,
) -> Solution:
    r"""Solve :math:`\min_x \tfrac12\|x - d\|^2 + \lambda \|D x\|_1` for the dual variable.

    Parameters
    ----------
    d
        ``(*batch, n)``, float64 for the accuracy below.
    D
        ``(m, n)``, or ``(*batch, m, n)``. Newton's method needs independent rows; where they are
        not, accelerated dual descent serves alone, which is slower.
    weight
        λ ≥ 0: a number, or a tensor that broadcasts to ``(*batch, m)``.
    rtol
        A sample counts as solved once :func:`dual_residual` is below this. Newton's method ends
        far below: at rounding.
    max_iterations
        Of the descent that takes over where Newton's method goes in circles.

    Returns
    -------
    Solution
        ``x`` is the dual variable w, ``(*batch, m)``: the solution itself is d + Dᵀw. ``status``
        of each sample.

    Raises
    ------
    ValueError
        If D and d do not fit, or a weight is negative.

    References
    ----------
    M. Hintermüller, K. Ito, K. Kunisch, SIAM J. Optim. 13 (2002), 865–888 (Newton's method as a
    choice of active sets); arXiv 2301.12047, Section 5 (the dual problem).

    Examples
    --------
    >>> d = torch.tensor([[0.0, 4.0, 5.0]]).double()
    >>> D = torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]).double()
    >>> w = solve_dual(d, D, 1.0).x
    >>> (d + w @ D).round(decimals=9)
    tensor([[1., 4., 4.]], dtype=torch.float64)
    """
    if D.dim() < 2 or D.shape[-1] != d.shape[-1] or D.shape[:-2] not in ((), d.shape[:-1]):
        raise ValueError(
            f"solve_dual: D must have shape (m, n) or (*batch, m, n) beside d of shape (*batch, n),"
            f" got D {tuple(D.shape)} and d {tuple(d.shape)}"
        )
    batch, m = d.shape[:-1], D.shape[-2]
    if bool((torch.as_tensor(weight) < 0).any()):
        raise ValueError("solve_dual: weight must not be below 0")
    with torch.no_grad():
        bound = torch.as_tensor(weight, dtype=d.dtype, device=d.device).expand(*batch, m)
        flat, bound = d.reshape(-1, d.shape[-1]), bound.reshape(-1, m)
        D = D if D.dim() == 2 else D.reshape(-1, *D.shape[-2:])
        w, status = _solve(flat, D, bound, rtol, max_iterations)
    return Solution(w.reshape(*batch, m), status.reshape(batch))


def dual_residual(w: Tensor, d: Tensor, D: Tensor, weight: Tensor | float) -> Tensor:
    """‖w − clip(w − D x / L, ±λ)‖ / (1 + ‖w‖) with L = ‖D‖², zero at the solution alone.

    Parameters
    ----------
    w
        ``(*batch, m)``.
    d, D, weight
        As for :func:`solve_dual`.

    Returns
    -------
    Tensor
        ``(*batch,)``.
    """
    L = torch.linalg.matrix_norm(D, 2).square()[..., None]
    slope = matvec(D, d + matvec(D.mT, w)) / torch.where(L > 0, L, 1)
    # Of the free part of the gradient the part that leads inside: its size, without w − (w − g),
    # which would lose the digits of a small g.
    below, above = -weight - w, weight - w
    moved = torch.minimum(torch.maximum(-slope, below), above)
    norm = torch.linalg.vector_norm
    return norm(moved, dim=-1) / (1 + norm(w, dim=-1))


def _solve(
    d: Tensor, D: Tensor, bound: Tensor, rtol: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    whole = torch.isfinite(D).flatten(-2).all(-1)
    usable = torch.isfinite(d).all(-1) & torch.isfinite(bound).all(-1) & whole
    # What is not finite is answered by NaN; in its place something harmless is solved.
    d, bound = (torch.where(usable.unsqueeze(-1), of, 0) for of in (d, bound))
    D = torch.where(whole[..., None, None], D, 0)
    dual = _dual(d, D, bound)
    if dual is None:
        w = _descend(d, D, bound, rtol, max_iterations)
    else:
        w = _newton(dual, _signs(dual.free, bound))
        for steps in (min(_SHORT, max_iterations), max_iterations):
            left = (~(dual_residual(w, d, D, bound) <= rtol)).nonzero().squeeze(-1)
            if not len(left):
                break
            # Newton's steps went in circles: a descent finds other bounds to begin at.
            own = d[left], D if D.dim() == 2 else D[left], bound[left]
            y = _descend(*own, rtol, steps)
            w[left] = _better(_newton(dual.take(left), _signs(y, own[-1])), y, *own)
    done = dual_residual(w, d, D, bound) <= rtol
    status = torch.where(done, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
    status = torch.where(usable, status, int(Status.NONFINITE))
    return torch.where(usable.unsqueeze(-1), w, torch.nan), status


def _descend(d: Tensor, D: Tensor, bound: Tensor, rtol: float, steps: int) -> Tensor:
    found = FDPG(rtol=0.1 * rtol, max_iterations=steps)(d, D, bound)
    return -found.multipliers.equality


def _signs(w: Tensor, bound: Tensor) -> Tensor:
    """Of the bounds that w is at, or beyond."""
    return torch.where(w.abs() >= bound, w.sign(), 0)


def _better(newton: Tensor, descent: Tensor, d: Tensor, D: Tensor, bound: Tensor) -> Tensor:
    """Sample by sample the one with the smaller residual; what is not finite is never chosen."""
    first, second = (dual_residual(w, d, D, bound) for w in (newton, descent))
    return torch.where((first <= second).unsqueeze(-1), newton, descent)


def _dual(d: Tensor, D: Tensor, bound: Tensor) -> _Dual | None:
    """The program; None where A has no inverse to speak of."""
    A = D @ D.mT
    A = A if A.dim() == 3 else A.unsqueeze(0)
    factor, info = torch.linalg.cholesky_ex(A)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    least, most = pivots.amin(-1), pivots.amax(-1)
    if bool(info.any()) or not bool((least > 1e3 * torch.finfo(d.dtype).eps ** 0.5 * most).all()):
        return None
    inverse, c = torch.cholesky_inverse(factor), matvec(D, d)
    return _Dual(A, inverse, -matvec(inverse, c), c, bound)


def _newton(dual: _Dual, signs: Tensor) -> Tensor:
    """w after Newton's steps from a choice of bounds; a sample stops where its choice repeats."""
    w = torch.zeros_like(signs)
    running = torch.arange(len(signs), device=signs.device)
    for _ in range(_NEWTON_STEPS):
        held = signs != 0
        # Whichever linear system is the smaller one: of the free coordinates, or of the others.
        few = int(held.sum(-1).max()) <= held.shape[-1] // 2
        y, slope = (_by_held if few else _by_free)(dual, signs, held)
        leaves = slope * signs >= 0
        joins = torch.where(y.abs() > dual.bound, y.sign(), 0)
        new = torch.where(held, torch.where(leaves, 0, signs), joins)
        w[running] = y
        changed = (new != signs).any(-1).nonzero().squeeze(-1)
        if not len(changed):
            break
        running, signs, dual = running[changed], new[changed], dual.take(changed)
    return w


def _by_held(dual: _Dual, signs: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """w and D x from the system of the held coordinates H.

    With μ = −D x, which is zero elsewhere, A w + c + μ = 0 gives w = free − A⁻¹ μ, and μ is such
    that w takes its bounds on H: (A⁻¹)_HH μ_H = (free − λ s)_H.
    """
    off = torch.where(held, dual.free - dual.bound * signs, 0)
    mu = _solve_block(dual.inverse, held, off)
    w = dual.free - _times(dual.inverse, mu)
    return torch.where(held, dual.bound * signs, w), -mu


def _by_free(dual: _Dual, signs: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """w and D x from the system of the free coordinates F: A_FF w_F = −(c + A λ s)_F."""
    at_bound = dual.bound * signs
    slope = dual.c + _times(dual.A, at_bound)
    y = _solve_block(dual.A, ~held, torch.where(held, 0, -slope))
    return torch.where(held, at_bound, y), slope + _times(dual.A, y)


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    return matvec(matrix[0] if len(matrix) == 1 else matrix, v)


def _solve_block(matrix: Tensor, mask: Tensor, b: Tensor) -> Tensor:
    """M_SS y_S = b_S with y = 0 elsewhere, S the mask of each sample, padded to the largest one."""
    k = int(mask.sum(-1).max())
    if k == 0:
        return torch.zeros_like(b)
    index = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :k]
    real = mask.gather(-1, index)
    sample = (
        torch.arange(len(mask), device=mask.device) if len(matrix) > 1 else mask.new_zeros(1).long()
    )
    block = matrix[sample[:, None, None], index.unsqueeze(2), index.unsqueeze(1)]
    block = block.masked_fill(~(real.unsqueeze(1) & real.unsqueeze(2)), 0)
    block.diagonal(dim1=-2, dim2=-1).add_((~real).to(block.dtype))
    # A block of a positive definite matrix is one too.
    factor, _ = torch.linalg.cholesky_ex(block)
    y = torch.cholesky_solve(b.gather(-1, index).unsqueeze(-1), factor).squeeze(-1)
    return torch.zeros_like(b).scatter(-1, index, torch.where(real, y, 0))
