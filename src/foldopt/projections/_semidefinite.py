"""The cone of positive semidefinite matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops
from foldopt.projections import _spectral as spectral


def positive_semidefinite(y: Tensor) -> Tensor:
    r"""Project on the positive semidefinite matrices, over the last two dimensions.

    :math:`X = V [\Lambda]_+ V^\top` for the symmetric part :math:`V \Lambda V^\top` of y (the
    skew part is orthogonal to all symmetric matrices). The derivative in a symmetric direction H
    is

    .. math:: V (\Theta \circ V^\top H V) V^\top, \qquad
        \Theta_{ij} = \frac{[\lambda_i]_+ + [\lambda_j]_+}{|\lambda_i| + |\lambda_j|}.

    It is finite and exact for repeated eigenvalues too, and so are all higher derivatives; there
    is a kink only where an eigenvalue is zero.

    Parameters
    ----------
    y
        Shape ``(*batch, n, n)``, float32 or float64.

    Returns
    -------
    Tensor
        Symmetric, of the shape and dtype of ``y``.

    Raises
    ------
    FoldError
        In forward mode inside forward mode (``jacfwd`` of ``jacfwd``), which PyTorch's custom
        functions do not support; ``torch.func.hessian`` and all others do.
    TypeError, ValueError
        If y is not of its kind.

    References
    ----------
    J. Malick, H. S. Sendov, Set-Valued Analysis 14 (2006), 273–293 (the derivative).

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> y = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    >>> projections.positive_semidefinite(y).round(decimals=3)
    tensor([[1., 1.],
            [1., 1.]])
    """
    ops.check_matrix("projections.positive_semidefinite", y, square=True)
    return positive_part(spectral.symmetric(y), -1)


def positive_part(S: Tensor, at_zero: Tensor | float, exact: Tensor | None = None) -> Tensor:
    """V [Λ]₊ Vᵀ of a symmetric S; on the kernel of S its slope is (1 + ``at_zero``)/2.

    Where ``exact`` holds (two last dimensions of 1), an eigenvalue as small as rounding is zero.
    """
    if S.numel() == 0:
        return S.clone()
    values, vectors, finite = spectral.eigen(S)
    if exact is not None:
        small = exact.squeeze(-1) & (values.abs() <= spectral.rounding(values))
        values = torch.where(small, 0, values)
    formula = 0.5 * (S + spectral.absolute(S, values, spectral.basis(values, vectors, at_zero)))
    # The formula has the derivative. The value is better taken from the positive eigenvalues
    # alone: of a low rank, and zero where there are none.
    value = (vectors * values.clamp_min(0).unsqueeze(-2)) @ vectors.mT
    x = spectral.symmetric(formula + (value - formula.detach()))
    return torch.where(finite, x, torch.nan)
