"""The denoising layer with a learned operator: folded, and by qpth on the quadratic program."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.experiments.denoising.data import first_differences
from foldopt.nn._total_variation.dual import solve_dual
from foldopt.operators._inverse import matvec

__all__ = ["Denoiser", "denoised", "folded_layer", "has_qpth", "qpth_layer"]

Layer = Callable[..., Tensor]


def denoised(d: Tensor, D: Tensor, weight: float) -> Tensor:
    """The solution of min ½‖x − d‖² + λ‖D x‖₁, without a derivative; ``(*batch, n)``.

    Raises
    ------
    FoldError
        If a sample was not solved.
    """
    with torch.no_grad():
        found = solve_dual(d, D, weight)
        if bool(fo.Status.failed(found.status).any()):
            raise fo.FoldError(
                "denoised: the dual program was not solved in some sample. Look at D for NaN, or "
                "for entries of very different size.",
                found.status,
            )
        return d + matvec(D.mT, found.x)


def folded_layer(solver: Callable[..., Any] = solve_dual) -> fo.nn.FoldedOptimizer:
    """f-FDPG: ``layer(d, D, weight) -> x`` with any solver of the dual program in front.

    A sample that has no derivative, because the free rows of D are dependent there, is left out,
    and counted by the certificate.

    Examples
    --------
    >>> d = torch.tensor([[0.0, 4.0, 5.0]]).double()
    >>> folded_layer()(d, first_differences(3), 1.0).round(decimals=9)
    tensor([[1., 4., 4.]], dtype=torch.float64)
    """
    return fo.nn.f_fdpg(solver=solver, options=fo.nn.Options(on_failure="mask"))


def has_qpth() -> bool:
    """Whether qpth is installed."""
    return importlib.util.find_spec("qpth") is not None


def qpth_layer(eps: float = 1e-12, smoothing: float = 1e-4, corrected: bool = True) -> Layer:
    r"""OptNet's layer: the program written as a QP in (x, t), solved and differentiated by qpth.

    .. math:: \min_{x, t} \tfrac12\|x - d\|^2 + \lambda 1^\top t + \tfrac{\sigma}{2}\|t\|^2
        \quad \text{s.t.} \quad -t \le D x \le t.

    Parameters
    ----------
    eps
        qpth's tolerance.
    smoothing
        σ. qpth needs a positive definite Q; the term moves the solution, by an amount of the order
        of σ|D x| in each multiplier.
    corrected
        qpth gives a parameter that the batch shares the *mean* of the samples' gradients. The
        chain rule asks for the sum. So D is handed to it once for each sample, and torch adds up.
        False: D as it is, with a gradient of 1/B of the right one.

    Returns
    -------
    callable
        ``layer(d, D, weight) -> x``.

    References
    ----------
    arXiv 2301.12047, eq. 33; B. Amos, J. Z. Kolter, OptNet, ICML 2017.
    """
    from qpth.qp import QPFunction

    solve = QPFunction(verbose=-1, eps=eps, maxIter=50, check_Q_spd=False)

    def layer(d: Tensor, D: Tensor, weight: float) -> Tensor:
        count, (m, n) = len(d), D.shape
        Q = torch.diag(torch.cat([d.new_ones(n), d.new_full((m,), smoothing)]))
        p = torch.cat([-d, d.new_full((count, m), weight)], dim=1)
        t = -torch.eye(m, dtype=d.dtype, device=d.device)
        G = torch.cat([torch.cat([D, t], dim=1), torch.cat([-D, t], dim=1)])
        G = G.expand(count, -1, -1) if corrected else G
        none = d.new_empty(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its calls into torch are of an older fashion
            z = solve(Q, p, G, d.new_zeros(2 * m), none, none)
        return z[:, :n]

    return layer


class Denoiser(nn.Module):
    """Enhanced total variation, with a learned D, first differences to begin with.

    Parameters
    ----------
    weight
        λ.
    layer
        ``layer(d, D, weight) -> x``.
    centred
        Whether the rows of D are kept at sum zero, so that a constant signal costs nothing however
        high it is. In the paper they are free.
    length
        n, of a signal.

    Examples
    --------
    >>> model = Denoiser(1.0, folded_layer(), length=3)
    >>> model(torch.tensor([[0.0, 4.0, 5.0]]).double()).sum().backward()
    >>> model.free.grad.shape
    torch.Size([2, 3])
    """

    def __init__(
        self, weight: float, layer: Layer, centred: bool = False, length: int = 100
    ) -> None:
        super().__init__()
        self.weight = weight
        self.layer = layer
        self.centred = centred
        self.free = nn.Parameter(first_differences(length))

    @property
    def operator(self) -> Tensor:
        """D, ``(n − 1, n)``."""
        return self.free - self.free.mean(-1, keepdim=True) if self.centred else self.free

    def forward(self, d: Tensor) -> Tensor:
        """``(B, n)`` to ``(B, n)``."""
        return self.layer(d, self.operator, self.weight)
