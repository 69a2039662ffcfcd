"""Total variation of a sequence: the fused lasso's signal approximator."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt._operator import block_means, check_point, none, operand, search, valid


def total_variation(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Denoise a sequence: the proximal operator of :math:`w \sum_i |x_{i+1} - x_i|`.

    Over the last dimension. x is constant on blocks of neighbours: on the block B, with
    :math:`\sigma = \pm 1` for the direction of the jump at each of its ends (0 at an end of the
    sequence),

    .. math:: x_B = \frac{1}{|B|} \Bigl(\sum_{i \in B} y_i
        + w\,(\sigma_{\text{right}} - \sigma_{\text{left}})\Bigr).

    So the Jacobian in y is the averaging over blocks, and
    :math:`\partial x_B/\partial w = (\sigma_{\text{right}} - \sigma_{\text{left}})/|B|`.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    weight
        w ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``. A row with a NaN is NaN throughout.

    Notes
    -----
    The blocks are found exactly, by splitting: a block is whole if none of its parts lies above its
    mean, as a cut with two labels; the cut of all blocks of all rows is one scan. About log₂ of the
    number of blocks rounds are needed, and how many is seen from the values.

    References
    ----------
    D. S. Hochbaum, J. ACM 48 (2001), 686–701 (by thresholds); L. Condat, IEEE Signal Process. Lett.
    20 (2013), 1054–1057.

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> prox.total_variation(torch.tensor([1.0, 0.0, 5.0, 6.0]), 0.75)
    tensor([0.8750, 0.8750, 5.0000, 5.2500])
    """
    check_point("prox.total_variation", y, last=True)
    w = operand("prox.total_variation: weight", weight, y, y.shape[:-1], least=0)
    if y.shape[-1] == 0:
        return y.clone()
    # A weight above this joins everything, and has no more effect; inf would spoil the sums.
    most = (y.detach() - y.detach().mean(-1, keepdim=True)).abs().sum(-1)
    most = torch.where(most == 0, 1, most)
    w = torch.where(w > most, most, w).unsqueeze(-1)
    begins, jump = search(_pieces, y, w)
    # The jump at the right end less that at the left, of the block that a place belongs to.
    before = torch.cat([torch.zeros_like(jump[..., :1]), jump[..., :-1]], -1)
    ends = torch.cat([begins[..., 1:], torch.ones_like(begins[..., :1])], -1)
    share = block_means(torch.where(ends, jump, 0) - torch.where(begins, before, 0), begins)
    x = block_means(y, begins) + w * share
    x = torch.where(y.detach().isnan().any(-1, keepdim=True), torch.nan, x)
    return valid(weight, w >= 0, x)


def _pieces(y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Where the blocks begin, and the direction of the jump from each place to the next.

    Let all of a block be at its mean t. What would rather be above t is the set s = 1 that
    minimises Σ (t − yᵢ) sᵢ + w Σ |sᵢ₊₁ − sᵢ|; if it is all or nothing, the block stays whole, and
    else it falls apart where s changes. Across such a place the sign of the jump is now known, and
    its share ±w of the objective moves into y.
    """
    cut = (weight == 0).expand(*y.shape[:-1], y.shape[-1] - 1)
    jump = torch.where(cut, y.diff(dim=-1).sign(), 0)
    while True:
        first = torch.nn.functional.pad(cut, (1, 0), value=True)
        pull = torch.nn.functional.pad(jump, (1, 1))
        z = y + weight * (pull[..., 1:] - pull[..., :-1])
        bound = torch.nn.functional.pad(torch.where(cut, 0, weight), (0, 1))
        s = above(z - block_means(z, first), bound)
        new = s[..., 1:] != s[..., :-1]
        new = new & ~cut
        if none(new):
            return first, pull[..., 1:]
        cut = cut | new
        jump = torch.where(new, torch.where(s[..., 1:], 1, -1).to(y.dtype), jump)


def above(z: Tensor, bound: Tensor) -> Tensor:
    """The s ∈ {0, 1} that minimises −Σ zᵢ sᵢ + Σ boundᵢ |sᵢ₊₁ − sᵢ|.

    Let dᵢ be what s₁ … sᵢ cost more if sᵢ = 1 than if sᵢ = 0. Then cᵢ = clip(dᵢ, −bound, bound) is
    what they cost more for sᵢ₊₁, and dᵢ₊₁ = cᵢ − zᵢ₊₁. The maps cᵢ₋₁ ↦ cᵢ are of the kind
    clip(c + shift, low, high), which compose to that kind: a scan gives all of them. Where dᵢ is
    not clipped, sᵢ = sᵢ₊₁; else its sign decides.
    """
    n = z.shape[-1]
    shift, low, high = -z, -bound, bound
    step = 1
    while step < n:
        later_shift, later_low, later_high = (part[..., step:] for part in (shift, low, high))
        earlier = tuple(part[..., :-step] for part in (shift, low, high))
        both = (
            earlier[0] + later_shift,
            *(torch.clamp(e + later_shift, later_low, later_high) for e in earlier[1:]),
        )
        shift, low, high = (
            torch.cat([part[..., :step], joined], -1)
            for part, joined in zip((shift, low, high), both, strict=True)
        )
        step *= 2
    c = torch.clamp(shift, low, high)
    d = torch.nn.functional.pad(c[..., :-1], (1, 0)) - z
    # Each place follows the next one that is decided, or else the last one.
    place = torch.arange(n, device=z.device)
    follows = torch.where(d.abs() > bound, place, n - 1).flip(-1).cummin(-1).values.flip(-1)
    return (d < 0).gather(-1, follows)
