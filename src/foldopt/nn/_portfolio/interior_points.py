r"""An exact solver of eq. 20 for a whole batch: interior points, then the active set.

In the scale of the program W = V / γ and of its costs, with multipliers z ≥ 0 of x ≥ 0, λ ≥ 0 of
the risk and ν of the budget, the optimality conditions of max cᵀx s.t. xᵀWx ≤ 1, 1ᵀx = 1, x ≥ 0 are

    −c + 2λWx − z + ν1 = 0,   1ᵀx = 1,   xᵀWx + s = 1,   x_i z_i = 0,   λ s = 0.

Interior points solve them with x_i z_i = λ s = μ, μ → 0 (Mehrotra's predictor and corrector). At
the end it is plain which of each pair is zero: the rest is a square system, on which Newton's
method finds x to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt._lu import one_by_one
from foldopt.operators import PrimalDual
from foldopt.status import Solution, Status

__all__ = ["residual", "solve"]

_TOLERANCE = 1e-9  # of the interior points; the active set does the rest
_NEAR = 1e-5  # from here on a step that makes things worse has met the limits of rounding
_SHORT = 0.1
_ITERATIONS = 60
_NEWTON = 4
_SOLVED = 1e-8  # what is called solved, in units of the scaled program


class _State(NamedTuple):
    x: Tensor  # (B, n)
    z: Tensor  # (B, n)
    s: Tensor  # (B, 1)
    lam: Tensor  # (B, 1)
    nu: Tensor  # (B, 1)

    def at(self, index: Tensor) -> _State:
        return _State(*(part[index] for part in self))

    def moved(self, by: _State, length: Tensor) -> _State:
        return _State(*(part + length * change for part, change in zip(self, by, strict=True)))


def solve(c: Tensor, covariance: Tensor, risk: Tensor) -> Solution:
    r"""Solve max cᵀx s.t. xᵀVx ≤ γ, 1ᵀx = 1, x ≥ 0 for a batch.

    Parameters
    ----------
    c
        Expected returns, shape ``(B, n)``.
    covariance
        V, positive definite, shape ``(B, n, n)``.
    risk
        γ above the least risk that there is, shape ``(B,)``.

    Returns
    -------
    Solution
        x is a :class:`~foldopt.operators.PrimalDual`: the portfolio ``(B, n)``; the multipliers of
        (xᵀVx / γ ≤ 1, x ≥ 0) ``(B, 1 + n)``; that of the budget ``(B, 1)``. The status is
        CONVERGED where the conditions hold to 1e-8 in units of the costs' range (to rounding,
        where x is unique and nothing degenerate), else INACCURATE: γ may then be too low for any
        portfolio.

    Raises
    ------
    ValueError
        If shapes do not fit, or a number is not finite.

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), sections 14.2 and 19.3.

    Examples
    --------
    Two assets of equal risk, γ = 0.68 of it: x₁² + (1 − x₁)² = 0.68.

    >>> import torch
    >>> c = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    >>> V, gamma = 1e-6 * torch.eye(2).double()[None], torch.tensor([0.68e-6], dtype=torch.float64)
    >>> solve(c, V, gamma).x.x
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """
    _check(c, covariance, risk)
    # Neither a shift of the costs (Σx = 1) nor their unit changes x: the multipliers follow.
    top = c.amax(-1, keepdim=True)
    size = top - c.amin(-1, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    costs, W = (c - top) / size, covariance / risk[:, None, None]
    state = _active_set(_interior_points(costs, W), costs, W)
    status = torch.where(
        _worst(state, costs, W) <= _SOLVED, int(Status.CONVERGED), int(Status.INACCURATE)
    )
    inequality = size * torch.cat([state.lam, state.z], -1)
    return Solution(PrimalDual(state.x, inequality, size * state.nu + top), status)


def residual(found: PrimalDual, c: Tensor, covariance: Tensor, risk: Tensor) -> Tensor:
    """How far the optimality conditions are from holding, in units of the scaled program.

    Parameters
    ----------
    found
        As :func:`solve` returns it.
    c, covariance, risk
        As for :func:`solve`.

    Returns
    -------
    Tensor
        The largest violation of each sample, shape ``(B,)``.
    """
    top = c.amax(-1, keepdim=True)
    size = top - c.amin(-1, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    W = covariance / risk[:, None, None]
    lam, z = found.inequality[..., :1] / size, found.inequality[..., 1:] / size
    slack = 1 - (found.x * _times(W, found.x)).sum(-1, keepdim=True)
    state = _State(found.x, z, slack, lam, (found.equality - top) / size)
    return _worst(state, (c - top) / size, W)


def _check(c: Tensor, covariance: Tensor, risk: Tensor) -> None:
    B, n = c.shape if c.dim() == 2 else (-1, -1)
    if covariance.shape != (B, n, n) or risk.shape != (B,):
        raise ValueError(
            "solve: c must have shape (B, n), covariance (B, n, n) and risk (B,), got "
            f"{tuple(c.shape)}, {tuple(covariance.shape)} and {tuple(risk.shape)}"
        )
    for name, value in {"c": c, "covariance": covariance, "risk": risk}.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"solve: {name} holds NaN or inf; look at what computed it")


def _times(W: Tensor, x: Tensor) -> Tensor:
    return (W @ x.unsqueeze(-1)).squeeze(-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _gradient(state: _State, c: Tensor, W: Tensor) -> Tensor:
    return -c + 2 * state.lam * _times(W, state.x) - state.z + state.nu


def _worst(state: _State, c: Tensor, W: Tensor) -> Tensor:
    """The largest violation of a condition; signs included."""
    risk = _dot(state.x, _times(W, state.x))
    parts = [
        _gradient(state, c, W).abs(),
        (state.x.sum(-1, keepdim=True) - 1).abs(),
        (risk + state.s - 1).abs(),
        torch.minimum(state.x, state.z).abs(),  # zero: both ≥ 0, and one of them zero
        torch.minimum(state.s, state.lam).abs(),
    ]
    worst = torch.cat(parts, -1).amax(-1)
    return torch.where(torch.isfinite(worst), worst, torch.inf)


# -- interior points -------------------------------------------------------------------------


def _interior_points(c: Tensor, W: Tensor) -> _State:
    n = c.shape[-1]
    x = torch.full_like(c, 1 / n)
    one = torch.ones_like(c[:, :1])
    slack = (1 - _dot(x, _times(W, x))).clamp_min(0.1)
    state = _State(x, torch.full_like(c, 0.5), slack, one, torch.zeros_like(one))
    left = torch.arange(len(c), device=c.device)
    parts = [part.clone() for part in state]
    for _ in range(_ITERATIONS):
        if len(left) == 0:
            break
        now, costs, risks = _State(*parts).at(left), c[left], W[left]
        new = _advance(now, costs, risks)
        before, after = _worst(now, costs, risks), _worst(new, costs, risks)
        good = torch.isfinite(after) & ((after < before) | (before > _NEAR))
        for part, value in zip(parts, new.at(good), strict=True):
            part[left[good]] = value
        left = left[good & (after > _TOLERANCE)]
    return _State(*parts)


def _advance(state: _State, c: Tensor, W: Tensor) -> _State:
    """One predictor and corrector."""
    x, z, s, lam, _ = state
    n = x.shape[-1]
    Wx = _times(W, x)
    g = 2 * Wx  # the gradient of the risk
    H = 2 * lam.unsqueeze(-1) * W + torch.diag_embed(z / x)
    H = H + (lam / s).unsqueeze(-1) * g.unsqueeze(-1) * g.unsqueeze(-2)
    factor = torch.linalg.cholesky_ex(H).L
    ones = torch.cholesky_solve(torch.ones_like(x).unsqueeze(-1), factor).squeeze(-1)
    dual, budget = _gradient(state, c, W), x.sum(-1, keepdim=True) - 1
    risk = _dot(x, Wx) + s - 1

    def direction(r_d: Tensor, r_s: Tensor, r_x: Tensor, r_lam: Tensor) -> _State:
        # z and s are eliminated: dz = (r_x − z dx) / x, ds = −r_s − gᵀdx, dλ = (r_λ − λ ds) / s.
        right = -r_d + r_x / x - g * (r_lam + lam * r_s) / s
        free = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
        d_nu = (free.sum(-1, keepdim=True) + budget) / ones.sum(-1, keepdim=True)
        dx = free - ones * d_nu
        ds = -r_s - _dot(g, dx)
        return _State(dx, (r_x - z * dx) / x, ds, (r_lam - lam * ds) / s, d_nu)

    first = direction(dual, risk, -x * z, -s * lam)
    ahead = state.moved(first, _length(state, first, 1.0))
    gap = (_dot(x, z) + s * lam) / (n + 1)
    target = gap * (((_dot(ahead.x, ahead.z) + ahead.s * ahead.lam) / (n + 1)) / gap) ** 3
    # What the linear model of the first direction has left out.
    second = direction(
        dual + 2 * first.lam * _times(W, first.x),
        risk + _dot(first.x, _times(W, first.x)),
        target - x * z - first.x * first.z,
        target - s * lam - first.s * first.lam,
    )
    length = _length(state, second, 0.995)
    # From a point close to a bound neither leads far: back to the middle first.
    central = direction(dual, risk, gap - x * z, gap - s * lam)
    jammed = length < _SHORT
    by = _State(*(torch.where(jammed, a, b) for a, b in zip(central, second, strict=True)))
    return state.moved(by, torch.where(jammed, _length(state, central, 0.995), length))


def _length(state: _State, by: _State, share: float) -> Tensor:
    """How far one may go: one length for x and multipliers, whose product is in the gradient."""
    value = torch.cat([state.x, state.s, state.z, state.lam], -1)
    change = torch.cat([by.x, by.s, by.z, by.lam], -1)
    ratio = torch.where(change < 0, -value / change, torch.inf)
    return (share * ratio.amin(-1, keepdim=True)).clamp_max(1.0)


# -- the active set -----------------------------------------------------------------------------


def _active_set(state: _State, c: Tensor, W: Tensor) -> _State:
    """Newton's method with the smaller of each pair held at zero; kept where it is better."""
    best, error = state, _worst(state, c, W)
    new = state
    for _ in range(_NEWTON):
        free, tight = new.x > new.z, new.lam > new.s
        new = _newton(new, c, W, free.to(c.dtype), tight.to(c.dtype))
        found = _worst(new, c, W)
        better = found < error
        best = _State(*(torch.where(better[:, None], a, b) for a, b in zip(new, best, strict=True)))
        error = torch.where(better, found, error)
    return best


def _newton(state: _State, c: Tensor, W: Tensor, free: Tensor, tight: Tensor) -> _State:
    """One step for (x, λ, ν) on the free entries; z and s follow from them."""
    n = c.shape[-1]
    x, lam = free * state.x, tight * state.lam
    g = 2 * _times(W, x)
    K = c.new_zeros(len(c), n + 2, n + 2)
    both = free.unsqueeze(-1) * free.unsqueeze(-2)
    K[:, :n, :n] = both * 2 * lam.unsqueeze(-1) * W + torch.diag_embed(1 - free)
    K[:, :n, n], K[:, n, :n] = free * g * tight, free * g * tight
    K[:, n, n] = (1 - tight).squeeze(-1)
    K[:, :n, n + 1], K[:, n + 1, :n] = free, free
    right = torch.cat(
        [
            free * (c - lam * g - state.nu),
            tight * (1 - _dot(x, g) / 2),
            1 - x.sum(-1, keepdim=True),
        ],
        -1,
    )
    move = one_by_one(torch.linalg.solve_ex, K, right.unsqueeze(-1))[0].squeeze(-1)
    x, lam, nu = x + free * move[:, :n], lam + move[:, n : n + 1], state.nu + move[:, n + 1 :]
    Wx = _times(W, x)
    z = (1 - free) * (-c + 2 * lam * Wx + nu)
    return _State(x, z, (1 - tight) * (1 - _dot(x, Wx)), lam, nu)
