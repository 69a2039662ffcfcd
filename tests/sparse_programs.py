"""Random quadratic programs on sparse matrices in both layouts, and a layer for them."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from foldopt.nn import QP, QPSolution

F64 = torch.float64
INF = torch.inf
MATRICES = ("Q", "G", "A")
Layout = Literal["csr", "coo"]
LAYOUTS: tuple[Layout, ...] = ("csr", "coo")
Blocks = dict[str, Tensor]
LAYER = QP(multipliers=True)


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=F64)


def solved(layer: QP, *blocks: Tensor | None, **limits: Tensor | float) -> QPSolution:
    found = layer(*blocks, **limits)  # type: ignore[arg-type]
    assert isinstance(found, QPSolution)
    return found


def sparse(dense: Tensor, layout: Layout = "csr") -> Tensor:
    """The entries of a matrix that are not zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: that sparse tensors are young
        found = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
        # Torch warns once of a check that it leaves out: when a tensor is made of parts.
        torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (1, 1))
    return found


def programs(
    n: int, m: int, k: int, bounds: bool, *, samples: int = 3, flat: int = 0, seed: int = 0
) -> Blocks:
    """One pattern and one set of matrices, with p, h, b and the bounds of each sample.

    The last ``flat`` variables have no curvature, and are held between bounds.
    """
    g = torch.Generator().manual_seed(seed)

    def thin(rows: int) -> Tensor:
        kept = torch.rand(rows, n, generator=g) < 3 / n
        kept[torch.arange(rows), torch.randint(n, (rows,), generator=g)] = True
        return torch.where(kept, torch.randn(rows, n, generator=g, dtype=F64), 0)

    R = thin(n)
    Q = R @ R.mT + 0.1 * torch.eye(n, dtype=F64)
    Q[n - flat :], Q[:, n - flat :] = 0, 0
    G, A = thin(m), thin(k)
    inside = torch.randn(samples, n, generator=g, dtype=F64)
    width = 0.1 + torch.rand(2, samples, n, generator=g, dtype=F64)
    found = {"Q": Q, "p": 2 * torch.randn(samples, n, generator=g, dtype=F64)}
    if m:
        found |= {"G": G, "h": inside @ G.mT + torch.rand(samples, m, generator=g, dtype=F64)}
    if k:
        found |= {"A": A, "b": inside @ A.mT}
    if bounds:
        found |= {"lower": inside - width[0], "upper": inside + width[1]}
    return found


def wanting(blocks: Blocks, layout: Layout | None = None) -> Blocks:
    return {
        name: (
            sparse(block, layout) if layout and name in MATRICES else block.clone()
        ).requires_grad_()
        for name, block in blocks.items()
    }


def dense(block: Tensor) -> Tensor:
    return block.to_dense() if block.layout != torch.strided else block


def kept(pattern: Tensor, gradient: Tensor) -> Tensor:
    """A gradient on the pattern of a matrix only."""
    return torch.where(pattern != 0, gradient, 0)
