"""The data of a quadratic program layer, looked at before anything is computed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt.solvers._qp.arguments import to_float

__all__ = ["NAMES", "Program", "benign", "program_of", "unusable"]

NAMES: tuple[str, ...] = ("Q", "p", "G", "h", "A", "b", "lower", "upper")
_DIMENSIONS: dict[str, int] = dict(zip(NAMES, (2, 1, 2, 1, 2, 1, 1, 1), strict=True))
_INFINITE: dict[str, float] = {"h": torch.inf, "lower": -torch.inf, "upper": torch.inf}


class Program(NamedTuple):
    """Blocks of one dtype; those that all samples share have no batch dimension, p always has one.

    Blocks that are absent have no rows: ``lower`` and ``upper`` are both ``(0,)`` or both full.
    """

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def samples(self) -> int:
        return self.p.shape[0]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Variables, inequalities, equalities, and bounds: n or none."""
        return self.p.shape[-1], self.h.shape[-1], self.b.shape[-1], self.lower.shape[-1]


def program_of(*given: Any) -> tuple[Program, torch.Size]:
    """The blocks with one batch dimension, and the batch shape that was given.

    Raises
    ------
    TypeError
        If a block is no tensor, or dtypes or devices differ.
    ValueError
        If shapes do not fit.
    """
    named = dict(zip(NAMES, given, strict=True))
    p = _vector("p", named["p"])
    n = p.shape[-1]
    for matrix, vector in (("G", "h"), ("A", "b")):
        if (named[matrix] is None) != (named[vector] is None):
            raise ValueError(f"nn.QP: {matrix} and {vector} go together, one of them is None")
    if named["lower"] is not None or named["upper"] is not None:
        for name, (infinity,) in (("lower", (-torch.inf,)), ("upper", (torch.inf,))):
            bound = named[name]
            if bound is None or isinstance(bound, (int, float)):
                number = infinity if bound is None else to_float(f"nn.QP: {name}", bound)
                named[name] = p.new_full((n,), number)
    if any(block is None for block in named.values()):
        none = torch.zeros(0, dtype=p.dtype, device=p.device)
        for name in ("G", "h", "A", "b", "lower", "upper"):
            if named[name] is None:
                named[name] = none if _DIMENSIONS[name] == 1 else none.reshape(0, n)
    m, k, bounds = (_rows(name, named[name]) for name in ("h", "b", "lower"))
    events = {
        "Q": (n, n), "p": (n,), "G": (m, n), "h": (m,), "A": (k, n), "b": (k,),
        "lower": (bounds,), "upper": (bounds,),
    }  # fmt: skip
    batch = _batch_shape(named, events, p)
    count = batch.numel()
    blocks = []
    for name, event in events.items():
        block = named[name]
        if name == "p" and block.dim() == 1:
            block = block.expand(count, n)
        # A block that all samples share stays as it is.
        more = block.dim() - len(event)
        blocks.append(block.reshape(count, *event) if more > 1 else block)
    return Program(*blocks), batch


def _batch_shape(
    named: dict[str, Any], events: dict[str, tuple[int, ...]], p: Tensor
) -> torch.Size:
    batch, first = torch.Size(), ""
    dtype, device = p.dtype, p.device
    for name, event in events.items():
        block = named[name]
        if not isinstance(block, Tensor):
            raise TypeError(f"nn.QP: {name} must be a tensor or None, got {type(block).__name__}")
        if block.layout != torch.strided:
            raise TypeError(
                f"nn.QP: {name} is sparse ({block.layout}) among dense blocks: if one of Q, G and "
                "A is sparse, all of them must be"
            )
        if block.dtype != dtype or block.device != device:
            raise TypeError(
                f"nn.QP: {name} is {block.dtype} on {block.device}, p is {dtype} on {device}: "
                "nothing is cast unasked"
            )
        if block.shape == event or block.shape == (*batch, *event):
            continue
        lead = block.shape[: max(block.dim() - len(event), 0)]
        if tuple(block.shape[len(lead) :]) != event:
            raise ValueError(
                f"nn.QP: {name} must have shape {event}, or that with the batch shape in front, "
                f"beside p of shape {tuple(p.shape)}; got {tuple(block.shape)}"
            )
        if lead and batch and lead != batch:
            raise ValueError(
                f"nn.QP: the batch shapes differ: {first} has {tuple(batch)}, {name} "
                f"{tuple(lead)}. A block that all samples share has no batch dimension"
            )
        if lead:
            batch, first = lead, name
    return batch


def _vector(name: str, block: Any) -> Tensor:
    if not isinstance(block, Tensor) or block.dtype not in (torch.float32, torch.float64):
        seen = block.dtype if isinstance(block, Tensor) else type(block).__name__
        raise TypeError(f"nn.QP: {name} must be a tensor of float32 or float64, got {seen}")
    if block.layout != torch.strided:
        raise TypeError(f"nn.QP: {name} must be dense, got {block.layout}: {name}.to_dense()")
    if block.dim() == 0 or block.shape[-1] == 0:
        raise ValueError(
            f"nn.QP: {name} must have shape (*batch, n) with n of 1 or more, got "
            f"{tuple(block.shape)}"
        )
    return block


def _rows(name: str, block: Any) -> int:
    if not isinstance(block, Tensor):
        raise TypeError(f"nn.QP: {name} must be a tensor or None, got {type(block).__name__}")
    return block.shape[-1] if block.dim() else 1


def unusable(program: Program) -> tuple[Tensor, str]:
    """The samples with NaN or with an infinity that means nothing, ``(B,)``, and what that is.

    Returns
    -------
    bad, message
        The message names the first block with one.
    """
    bad = torch.zeros(program.samples, dtype=torch.bool, device=program.p.device)
    message = ""
    for name, block in zip(NAMES, program, strict=True):
        # One sum says that all is finite; only if it is not, each entry is looked at.
        if not block.numel() or math.isfinite(float(block.sum())):
            continue
        allowed = torch.isfinite(block)
        infinity = _INFINITE.get(name)
        if infinity is not None:
            allowed = allowed | (block == infinity)
        if bool(allowed.all()):
            continue
        shared = block.dim() == _DIMENSIONS[name]
        where = tuple(int(i) for i in torch.nonzero(~allowed)[0])
        bad |= ~(allowed.all() if shared else allowed.flatten(1).all(-1))
        message = message or (
            f"{name}{'' if shared else f' of sample {where[0]}'} holds {float(block[where])}"
            + ("" if infinity is None else f" ({name} may hold {infinity}, no other such value)")
        )
    return bad, message


def benign(program: Program, bad: Tensor) -> Program:
    """The program with min ½‖x‖², without constraints, in the place of some samples."""
    n = program.sizes[0]
    values = {
        "Q": torch.eye(n, dtype=program.p.dtype, device=program.p.device),
        "h": torch.inf,
        "lower": -torch.inf,
        "upper": torch.inf,
    }
    blocks = []
    for name, block in zip(NAMES, program, strict=True):
        if block.dim() == _DIMENSIONS[name]:
            # Shared by all: if it is bad, so are all samples, and nothing is solved.
            blocks.append(torch.where(torch.isnan(block), 0, block))
            continue
        mask = bad.reshape(-1, *[1] * _DIMENSIONS[name])
        blocks.append(torch.where(mask, values.get(name, 0.0), block))
    return Program(*blocks)
