"""Total variation with a dense operator, forward: a semismooth Newton method on the dual.

With x = d + Dᵀw the dual of min ½‖x − d‖² + λ‖D x‖₁ is

    min ½‖d + Dᵀw‖²   over   |w| ≤ λ,

with the gradient D x. Let s be the sign of the bound that a coordinate sits on, 0 where it is free.
Given s, the optimality conditions are linear: w = λ s where s ≠ 0, and D x = 0 elsewhere. Their
solution tells the next s: a coordinate leaves its bound where D x would push it inside, and joins
one where |w| > λ. This is Newton's method on w = clip(w − D x / L, ±λ), and it ends as soon as s
repeats: then w is the solution, to rounding. Some steps of accelerated descent come first: each
costs two products, and they leave Newton's method few linear systems.

Where rows of D depend on one another, D Dᵀ is singular and w is not unique. Then the proximal point
method solves a sequence of such programs, with a term (ε/2)‖w − w_k‖² each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.nn._total_variation.newton import Dual, newton, times
from foldopt.operators._inverse import matvec
from foldopt.solvers import FDPG
from foldopt.status import Solution, Status

__all__ = ["dual_residual", "solve", "solve_dual"]

_WARM = 50
_SHORT = 300
# Of the proximal point method, ε relative to the diagonal of D Dᵀ; and how many programs.
_PROXIMAL = 1e-5
_PROXIMAL_STEPS = 20


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
        ``(m, n)``, or ``(*batch, m, n)``. Rows may depend on one another; w is not unique then.
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


def solve(
    d: Tensor, D: Tensor, bound: Tensor, rtol: float = 1e-9, max_iterations: int = 20_000
) -> tuple[Tensor, Tensor]:
    """Solve for finite data: d ``(B, n)``, D ``(m, n)`` or ``(B, m, n)``, and λ ``(B, m)``.

    See :func:`solve_dual`.

    Returns
    -------
    w, done
        ``(B, m)``, and which samples are solved, ``(B,)``.
    """
    if not bound.numel():
        return bound.clone(), torch.ones(len(d), dtype=torch.bool, device=d.device)
    dual, steep = _dual(d, D, bound)
    w, done = newton(dual, _signs(_descent(dual, steep), bound))
    # Newton's method ends at rounding error, or in circles. Where its linear systems are bad, what
    # it ends at is looked at.
    doubtful = ~done
    if dual.doubtful:
        w = _proximal(dual, w)
        doubtful = torch.ones_like(done)
    if bool(doubtful.any()):
        done = ~doubtful | (dual_residual(w, d, D, bound) <= rtol)
    for steps in (min(_SHORT, max_iterations), max_iterations):
        left = (~done).nonzero().squeeze(-1)
        if not len(left):
            break
        # A descent finds other bounds to begin at.
        own = d[left], D if D.dim() == 2 else D[left], bound[left]
        y = _descend(*own, rtol, steps)
        found = newton(dual.take(left), _signs(y, own[-1]))[0]
        w[left] = _better(found, y, *own)
        done[left] = dual_residual(w[left], *own) <= rtol
    return w, done


def _solve(
    d: Tensor, D: Tensor, bound: Tensor, rtol: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    whole = torch.isfinite(D).flatten(-2).all(-1)
    usable = torch.isfinite(d).all(-1) & torch.isfinite(bound).all(-1) & whole
    # What is not finite is answered by NaN; in its place something harmless is solved.
    d, bound = (torch.where(usable.unsqueeze(-1), of, 0) for of in (d, bound))
    D = torch.where(whole[..., None, None], D, 0)
    w, done = solve(d, D, bound, rtol, max_iterations)
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


def _dual(d: Tensor, D: Tensor, bound: Tensor) -> tuple[Dual, Tensor]:
    """The program, and a bound of ‖D Dᵀ‖."""
    A = D @ D.mT
    A = A if A.dim() == 3 else A.unsqueeze(0)
    steep = A.abs().sum(-1).amax(-1)
    factor, info = torch.linalg.cholesky_ex(A)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    least, most = pivots.amin(-1), pivots.amax(-1)
    doubtful = bool(info.any()) or not bool(
        (least > 1e3 * torch.finfo(d.dtype).eps ** 0.5 * most).all()
    )
    if doubtful:
        size = A.diagonal(dim1=-2, dim2=-1).amax(-1)
        shift = _PROXIMAL * torch.where(size > 0, size, 1)
        A = A + torch.diag_embed(shift.unsqueeze(-1).expand(A.shape[:-1]))
        factor = torch.linalg.cholesky(A)
    else:
        shift = torch.zeros_like(steep)
    inverse, c = torch.cholesky_inverse(factor), matvec(D, d)
    return Dual(A, inverse, -times(inverse, c), c, bound, shift.unsqueeze(-1), doubtful), steep


def _descent(dual: Dual, steep: Tensor) -> Tensor:
    """w after some steps of accelerated projected gradient descent from zero (FISTA)."""
    A = dual.A / torch.where(steep > 0, steep, 1)[:, None, None]
    c = dual.c / torch.where(steep > 0, steep, 1).unsqueeze(-1)
    w = y = torch.zeros_like(c)
    t, low = 1.0, -dual.bound
    for _ in range(_WARM):
        new = torch.minimum(torch.maximum(y - (times(A, y) + c), low), dual.bound)
        faster = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = torch.lerp(w, new, 1 + (t - 1) / faster)
        w, t = new, faster
    return w


def _proximal(dual: Dual, w: Tensor) -> Tensor:
    """The proximal point method from zero: near the solution of least norm, and ends at one.

    ``w`` is the answer to the first of its programs.
    """
    for _ in range(_PROXIMAL_STEPS):
        c = dual.c - dual.shift * w
        near = dual._replace(c=c, free=-times(dual.inverse, c))
        new, _ = newton(near, _signs(w, dual.bound))
        moved = (new - w).abs().amax()
        w = new
        if not bool(moved > 1e-11 * w.abs().amax()):
            break
    return w
