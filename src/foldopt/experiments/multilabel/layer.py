r"""The layer: smooth top-k selection of logits (eq. 19, its sign mended), and its derivatives.

    max_x  cᵀx − Σ x_i log x_i   subject to  Σ x_i = k,  0 ≤ x ≤ 1.

The solution is x_i = min(1, e^{c_i − ν}). With F the entries below 1 and s = Σ_F x,

    ∂x_i/∂c_j = x_i (δ_ij − x_j / s)  for i, j in F,  and 0 elsewhere,

so that the cotangent g becomes x_F (g_F − Σ_F x g / s). That closed form is what the folds, and
another library, are held against. All of them share one forward pass: bisection on ν.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.convergence.top_k import TopK
from foldopt.steps import Step

__all__ = ["EXACT", "FOLDED", "STEP_SIZE", "Layer", "Logits", "exact", "folded", "layer_of",
           "pgd_step", "scaled", "sqp_step"]  # fmt: skip

Layer = Callable[[Tensor], Tensor]
Logits = Literal["normalised", "sharp", "raw"]

EXACT = "closed form"
FOLDED = ("f-PGDa", "f-SQP")
STEP_SIZE = 0.025  # α of projected gradient descent, the paper's repository's default
_SMALL_TAU = 0.1


def scaled(logits: Tensor, kind: Logits) -> Tensor:
    r"""What the layer takes, in float64: logits as they are, or of a fixed length.

    Parameters
    ----------
    logits
        z, shape ``(B, n)``, of any floating dtype.
    kind
        ``"normalised"``: :math:`z/\|z\|`, as in the paper's repository, where no bound can become
        active for n = 100 and k = 5; ``"sharp"``: :math:`10\, z/\|z\|`, that is τ = 0.1;
        ``"raw"``: z.

    Returns
    -------
    Tensor
        c, shape ``(B, n)``.

    Raises
    ------
    ValueError
        If there is no such kind.

    Examples
    --------
    >>> scaled(torch.tensor([[3.0, 4.0]]), "normalised")
    tensor([[0.6000, 0.8000]], dtype=torch.float64)
    """
    c = logits.double()
    if kind == "raw":
        return c
    if kind not in ("normalised", "sharp"):
        raise ValueError(f"scaled: kind must be 'normalised', 'sharp' or 'raw', got {kind!r}")
    unit = c / torch.linalg.vector_norm(c, dim=-1, keepdim=True)
    return unit if kind == "normalised" else unit / _SMALL_TAU


def exact(k: int) -> Layer:
    """The layer with the derivative of the closed form.

    Parameters
    ----------
    k
        How many are selected.

    Returns
    -------
    layer
        ``layer(c) -> x``, both ``(B, n)``.

    Examples
    --------
    >>> c = torch.tensor([[9.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    >>> x = exact(2)(c)
    >>> x
    tensor([[1.0000, 0.5000, 0.5000]], dtype=torch.float64, grad_fn=...)
    >>> x[0, 1].backward()
    >>> c.grad + 0
    tensor([[ 0.0000,  0.2500, -0.2500]], dtype=torch.float64)
    """
    problem = TopK(k)

    def layer(c: Tensor) -> Tensor:
        x = problem.solve(c.detach())
        free = torch.where(x < 1, x, 0)
        moved = free * (c - (free * c).sum(-1, keepdim=True) / free.sum(-1, keepdim=True))
        # The value of x, with the derivative of the expression, in which x counts as a constant.
        return x + (moved - moved.detach())

    return layer


def pgd_step(k: int, step_size: float = STEP_SIZE) -> Step:
    r"""Projected gradient descent on the layer's problem, the step of f-PGDa.

    :math:`U(x, c) = P(x - \alpha (\log x + 1 - c))`, P being the projection on the capped simplex,
    whose derivative is that of its active set, as that of the quadratic program would be.

    Parameters
    ----------
    k
        How many are selected.
    step_size
        α. It decides how fast an iterative adjoint converges, if it does, and nothing else: ρ(Φ)
        is below 1 for α below 2 min x at the least.

    Returns
    -------
    Step
        ``step(x, c)``.

    Examples
    --------
    >>> x, c = torch.full((1, 4), 0.25), torch.zeros(1, 4)
    >>> torch.allclose(pgd_step(1)(x, c), x)
    True
    """
    return fo.steps.projected_gradient(
        TopK(k).objective, lambda y: fo.projections.capped_simplex(y, float(k)), step_size
    )


def sqp_step(k: int) -> Step:
    r"""Sequential quadratic programming on the layer's problem, the step of f-SQP, α = 1.

    The Hessian is diag(1/x), and the constraints are linear, so that their multipliers do not
    enter: the state is x alone. The quadratic program
    :math:`\min_y \tfrac12 (y - x)^\top \operatorname{diag}(1/x)(y - x) + (\log x + 1 - c)^\top y`
    over the same set has the solution

    .. math:: y_i = \operatorname{clip}(x_i (c_i - \log x_i - \nu),\ 0,\ 1)

    with ν such that Σy = k. At a fixed point :math:`c_i - \log x_i - \nu = 1` on the free entries,
    and Φ = 0.

    Parameters
    ----------
    k
        How many are selected.

    Returns
    -------
    Step
        ``step(x, c)``.

    Examples
    --------
    >>> x, c = torch.full((1, 4), 0.25), torch.zeros(1, 4)
    >>> torch.allclose(sqp_step(1)(x, c), x)
    True
    """

    def update(x: Tensor, c: Tensor) -> Tensor:
        slope = c - x.log()
        full, free = _pieces(x.detach(), slope.detach(), k)
        w = torch.where(free, x, 0)
        left = k - full.sum(-1, keepdim=True)
        nu = ((w * slope).sum(-1, keepdim=True) - left) / w.sum(-1, keepdim=True)
        return torch.where(free, x * (slope - nu), full.to(x.dtype))

    return Step(update, newton=True, name="sqp")


def _pieces(x: Tensor, slope: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Which entries of clip(x (slope − ν), 0, 1) are 1, and which are between, for Σ = k.

    The sum falls in ν. An entry leaves 1 at ν = slope − 1/x, and reaches 0 at ν = slope: one sort
    of these 2 n points, and the sum at each of them, give the interval in which ν lies.
    """
    points = torch.cat([slope, slope - 1 / x], -1).sort(dim=-1).values
    # The last of the points at which the sum is still k or more: it is n at the first of them.
    most = points.shape[-1] - 1
    first = torch.zeros_like(points[..., :1], dtype=torch.int64)
    last = torch.full_like(first, most)
    for _ in range(points.shape[-1].bit_length()):
        middle = (first + last + 1) // 2
        height = (x * (slope - points.gather(-1, middle))).clamp(0, 1).sum(-1, keepdim=True)
        first, last = (
            torch.where(height >= k, middle, first),
            torch.where(height >= k, last, (middle - 1).maximum(first)),
        )
    # Between two neighbouring points no entry changes its piece.
    ends = points.gather(-1, first), points.gather(-1, (first + 1).clamp_max(most))
    y = x * (slope - (ends[0] + ends[1]) / 2)
    return y >= 1, (y > 0) & (y < 1)


def folded(k: int, step: Step, **options: Any) -> Layer:
    """The layer with the derivative of a fold.

    Parameters
    ----------
    k
        How many are selected.
    step
        What is folded: :func:`pgd_step` or :func:`sqp_step`.
    options
        As for :func:`~foldopt.folded`.

    Returns
    -------
    layer
        ``layer(c) -> x``.

    Examples
    --------
    >>> c = torch.tensor([[9.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    >>> folded(2, pgd_step(2))(c)[0, 1].backward()
    >>> torch.round(c.grad, decimals=8) + 0
    tensor([[ 0.0000,  0.2500, -0.2500]], dtype=torch.float64)
    """
    return fo.folded(step, **options)(TopK(k).solve)


def layer_of(method: str, k: int, **options: Any) -> Layer:
    """The layer of a method by its name.

    Parameters
    ----------
    method
        ``"closed form"``, ``"f-PGDa"`` or ``"f-SQP"``.
    k
        How many are selected.
    options
        For the folds, as for :func:`~foldopt.folded`.

    Returns
    -------
    layer
        ``layer(c) -> x``.

    Raises
    ------
    ValueError
        If there is no such method.

    Examples
    --------
    >>> layer_of("f-SQP", k=1)(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    if method == EXACT:
        return exact(k)
    if method == "f-PGDa":
        return folded(k, pgd_step(k), **options)
    if method == "f-SQP":
        return folded(k, sqp_step(k), **options)
    raise ValueError(
        f"layer_of: method must be {EXACT!r}, 'f-PGDa' or 'f-SQP', got {method!r}; cvxpylayers "
        "has a module of its own"
    )
