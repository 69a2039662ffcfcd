"""The nuclear norm: soft thresholding of the singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt._operator import check_matrix, operand, valid
from foldopt.projections._semidefinite import positive_part


def nuclear(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Singular value thresholding: the proximal operator of :math:`w \|X\|_*`.

    :math:`X = U [\Sigma - w I]_+ V^\top` for :math:`Y = U \Sigma V^\top`, over the last two
    dimensions. With :math:`[\cdot]_+` on the eigenvalues, as in
    :func:`~foldopt.projections.positive_semidefinite`,

    .. math:: \begin{pmatrix} -w I & Y \\ Y^\top & -w I \end{pmatrix}_+
        = \tfrac12 \begin{pmatrix} \cdot & X \\ X^\top & \cdot \end{pmatrix},

    whose derivatives are finite and exact also for singular values that repeat or are zero. There
    is a kink only where a singular value is w.

    Parameters
    ----------
    y
        Shape ``(*batch, m, n)``, float32 or float64.
    weight
        w ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Raises
    ------
    FoldError
        In forward mode inside forward mode (``jacfwd`` of ``jacfwd``), which PyTorch's custom
        functions do not support; ``torch.func.hessian`` and all others do.
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    The eigenvalues of a matrix of m + n rows are computed.

    References
    ----------
    J.-F. Cai, E. J. Candès, Z. Shen, SIAM J. Optim. 20 (2010), 1956–1982, Theorem 2.1.

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> prox.nuclear(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), 1.0).round(decimals=3)
    tensor([[2., 0.],
            [0., 0.]])
    """
    check_matrix("prox.nuclear", y)
    given = operand("prox.nuclear: weight", weight, y, y.shape[:-2], least=0)
    given = given.unsqueeze(-1).unsqueeze(-1)
    m, n = y.shape[-2:]
    # Above the largest singular value w has no effect, and an infinite one would spoil the sums.
    size = torch.linalg.vector_norm(y.detach(), dim=(-2, -1), keepdim=True)
    enough = torch.where(size == 0, 1, 2 * size)
    w = torch.where(given >= enough, enough, given)
    both = torch.cat(
        [
            torch.cat([y.new_zeros(*y.shape[:-1], m), y], -1),
            torch.cat([y.mT, y.new_zeros(*y.shape[:-2], n, n)], -1),
        ],
        -2,
    )
    both = both - w * torch.eye(m + n, dtype=y.dtype, device=y.device)
    # A singular value that is w counts as above it. But w = 0 is the identity, and the singular
    # values that are zero have a share in both signs, of one half each.
    free = w == 0
    x = positive_part(both, torch.where(free, 0.0, 1.0), free)
    return valid(weight, given >= 0, 2 * x[..., :m, m:])
