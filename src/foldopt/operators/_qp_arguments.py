"""The data of a quadratic program, looked at before anything is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt._operator import check_dense
from foldopt._tree import flatten
from foldopt.operators._kkt import PrimalDual
from foldopt.operators._solve_qp import QP
from foldopt.status import FoldError

__all__ = ["as_point", "blocks_of", "check_convex", "flat_start"]


def check_convex(Q: Tensor) -> None:
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    finite = torch.isfinite(Q).flatten(1).all(-1)[:, None, None]
    Q = torch.where(finite, Q, eye)  # what is not finite is reported as that
    size = Q.abs().amax((-2, -1), keepdim=True) if Q.numel() else Q.new_zeros(len(Q), 1, 1)
    shift = torch.finfo(Q.dtype).eps ** 0.6 * size + torch.finfo(Q.dtype).tiny
    info = torch.linalg.cholesky_ex(Q + shift * eye)[1]
    if bool((info != 0).any()):
        first = int(torch.nonzero(info)[0])
        raise ValueError(
            f"quadratic_program: Q of sample {first} is not positive semidefinite: "
            "the program is not convex. nn.f_sqp handles nonconvex programs"
        )


def as_point(found: Any, qp: QP) -> PrimalDual:
    point = None
    if isinstance(found, (tuple, list)) and len(found) == 3:
        like = {"dtype": qp.p.dtype, "device": qp.p.device}
        point = PrimalDual(
            *(part if isinstance(part, Tensor) else torch.as_tensor(part, **like) for part in found)
        )
    wanted = [tuple(block.shape) for block in (qp.p, qp.h, qp.b)]
    seen = None if point is None else [tuple(part.shape) for part in point]
    if point is None or seen != wanted:
        raise FoldError(
            "quadratic_program: solver(Q, p, G, h, A, b) must return (x, inequality, equality) of "
            f"shapes {wanted}, and returned {seen or type(found).__name__}"
        )
    return point


def blocks_of(
    Q: Tensor,
    p: Tensor,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
) -> tuple[tuple[Tensor, ...], torch.Size]:
    """Every block as ``(B, …)``, absent ones with no rows, and the batch shape."""
    for name, block in (("Q", Q), ("p", p), ("G", G), ("h", h), ("A", A), ("b", b)):
        absent = block is None and name not in ("Q", "p")
        if not absent and not isinstance(block, Tensor):
            raise TypeError(f"quadratic_program: {name} must be a tensor, got {type(block)}")
        if isinstance(block, Tensor):
            check_dense(f"quadratic_program: {name}", block)
    for names, pair in (("G and h", (G, h)), ("A and b", (A, b))):
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(f"quadratic_program: {names} go together, one of them is None")
    if not p.is_floating_point() or p.dim() == 0:
        raise TypeError(
            f"quadratic_program: p must be a floating tensor (*batch, n), got {p.dtype} of shape "
            f"{tuple(p.shape)}"
        )
    n, batch = p.shape[-1], p.shape[:-1]
    G, h = (p.new_zeros(0, n), p.new_zeros(0)) if G is None or h is None else (G, h)
    A, b = (p.new_zeros(0, n), p.new_zeros(0)) if A is None or b is None else (A, b)
    m, k = h.shape[-1] if h.dim() else 1, b.shape[-1] if b.dim() else 1
    wanted = {"Q": (n, n), "p": (n,), "G": (m, n), "h": (m,), "A": (k, n), "b": (k,)}
    found = []
    for (name, event), block in zip(wanted.items(), (Q, p, G, h, A, b), strict=True):
        if block.dtype != p.dtype or block.device != p.device:
            raise TypeError(
                f"quadratic_program: {name} is {block.dtype} on {block.device}, p is {p.dtype} on "
                f"{p.device}: nothing is cast unasked"
            )
        lead = block.shape[: block.dim() - len(event)]
        if tuple(block.shape[len(lead) :]) != event or lead not in (batch, torch.Size()):
            raise ValueError(
                f"quadratic_program: {name} must have shape {event} or {(*batch, *event)} beside p "
                f"of shape {tuple(p.shape)}, got {tuple(block.shape)}"
            )
        found.append(block.expand(*batch, *event).reshape(batch.numel(), *event))
    return tuple(found), batch


def flat_start(
    start: Tensor | PrimalDual, batch: torch.Size, blocks: tuple[Tensor, ...]
) -> Tensor | PrimalDual:
    parts = [part.detach().reshape(batch.numel(), part.shape[-1]) for part in flatten(start)[0]]
    x = parts[0]
    if x.shape != blocks[1].shape or len(parts) not in (1, 3):
        raise ValueError(
            f"quadratic_program: start must be an x of the shape of p, {(*batch, x.shape[-1])}, or "
            "a PrimalDual"
        )
    return x if len(parts) == 1 else PrimalDual(*parts)
