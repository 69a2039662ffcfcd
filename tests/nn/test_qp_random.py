"""Two thousand random quadratic programs with a known solution: no gradient is wrong in silence."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor

import foldopt as fo
from foldopt.nn import QP
from foldopt.nn._messages import WEAK

F64 = torch.float64
EXAMPLES, BATCH = 130, 16
STEP = 1e-7  # of the finite differences
WORST = 1e5  # the condition of what is asked


class Shape(NamedTuple):
    """Sizes of the programs of a batch: how many rows of each kind there are."""

    n: int
    strict: int  # active, with multipliers above zero
    weak: int  # active, with multipliers of zero
    slack: int
    equalities: int
    repeated: int  # strict rows that are there twice, with another length
    redundant: int  # equalities that are combinations of others
    rank: int  # of Q
    scale: float  # of Q and p


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    n = draw(st.integers(1, 30))
    held = draw(st.integers(0, n))
    equalities = draw(st.integers(0, held))
    weak = draw(st.integers(0, min(3, held - equalities)))
    strict = held - equalities - weak
    # The solution is unique: Q has curvature wherever the strictly active rows leave room.
    rank = draw(st.one_of(st.just(n), st.integers(n - strict - equalities, n)))
    return Shape(
        n,
        strict,
        weak,
        draw(st.integers(0, 5)),
        equalities,
        draw(st.integers(0, min(2, strict))),
        draw(st.integers(0, min(2, equalities))),
        rank,
        10.0 ** draw(st.integers(-6, 6)),
    )


class Batch(NamedTuple):
    """Programs, a direction in which their data move, and what is known of them."""

    blocks: tuple[Tensor, ...]  # Q, p, G, h, A, b
    along: tuple[Tensor, ...]
    x: Tensor
    multipliers: Tensor  # of the rows of G that are not repeated


def programs(shape: Shape, seed: int) -> Batch:
    """Programs whose solution is planted: p is what the optimality conditions ask for.

    Rows that are repeated, and combinations of others, move as their originals do: x then has a
    derivative in that direction.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(BATCH, *size, generator=draw, dtype=F64)

    def positive(*size: int) -> Tensor:
        return 0.5 + 1.5 * torch.rand(BATCH, *size, generator=draw, dtype=F64)

    n, active = shape.n, shape.strict + shape.weak
    R = normal(n, max(shape.rank, 1))
    Q = R @ R.mT / n if shape.rank else torch.zeros(BATCH, n, n, dtype=F64)
    if shape.rank == n:
        Q = Q + 0.1 * torch.eye(n, dtype=F64)
    x, G, A = normal(n), normal(active + shape.slack, n), normal(shape.equalities, n)
    lam = torch.cat([positive(shape.strict), torch.zeros(BATCH, shape.weak + shape.slack)], -1)
    gap = torch.cat([torch.zeros(BATCH, active), positive(shape.slack)], -1)
    h, b = times(G, x) + gap, times(A, x)
    p = -times(Q, x) - times(G.mT, lam) - times(A.mT, normal(shape.equalities))
    move = normal(n, n)
    along = ((move + move.mT) / 2, normal(n), *(torch.randn(
        one.shape, generator=draw, dtype=F64) for one in (G, h, A, b)))  # fmt: skip
    if shape.rank < n:  # a Q that is only semidefinite is to stay so
        along = (Q, *along[1:])
    longer, mixed = positive(shape.repeated), normal(shape.redundant, shape.equalities)

    def extended(blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        Q, p, G, h, A, b = blocks
        G = torch.cat([G, longer.unsqueeze(-1) * G[:, : shape.repeated]], 1)
        h = torch.cat([h, longer * h[:, : shape.repeated]], 1)
        A, b = torch.cat([A, mixed @ A], 1), torch.cat([b, times(mixed, b)], 1)
        return shape.scale * Q, shape.scale * p, G, h, A, b

    return Batch(extended((Q, p, G, h, A, b)), extended(along), x, lam)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def moved(batch: Batch, shape: Shape, sample: int, weak: tuple[int, ...]) -> Tensor | None:
    """dx along the direction, if these of the weak rows stay active; None: ill-conditioned."""
    Q, p, G, _, A, _ = (block[sample] for block in batch.blocks)
    dQ, dp, dG, dh, dA, db = (block[sample] for block in batch.along)
    rows = [*range(shape.strict), *weak]
    k = shape.equalities
    W, dW = torch.cat([G[rows], A[:k]]), torch.cat([dG[rows], dA[:k]])
    dw = torch.cat([dh[rows], db[:k]])
    x, count = batch.x[sample], len(W)
    corner = torch.zeros(count, count, dtype=F64)
    size = shape.scale
    K = torch.cat([torch.cat([Q / size, W.mT], 1), torch.cat([W, corner], 1)])
    if float(torch.linalg.cond(K)) > WORST:
        return None
    force = -(Q @ x + p) / size  # Wᵀλ
    multipliers = torch.linalg.lstsq(W.mT, force.unsqueeze(-1)).solution.squeeze(-1)
    top = -(dQ @ x + dp) / size - dW.mT @ multipliers
    return torch.linalg.solve(K, torch.cat([top, dw - dW @ x]))[: shape.n]


@settings(max_examples=EXAMPLES, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**31))
def test_no_gradient_is_wrong_in_silence(shape: Shape, seed: int) -> None:
    batch = programs(shape, seed)
    blocks = [block.clone().requires_grad_() for block in batch.blocks]
    w = torch.randn(BATCH, shape.n, dtype=F64, generator=torch.Generator().manual_seed(seed + 1))
    with fo.record() as seen:
        x = QP(on_failure="mask")(*blocks)
    gradients = torch.autograd.grad((w * x).sum(), blocks)
    parts = [(g * d).flatten(1).sum(-1) for g, d in zip(gradients, batch.along, strict=True)]
    found = torch.stack(parts).sum(0)
    weak = range(shape.strict, shape.strict + shape.weak)
    choices = [c for r in range(shape.weak + 1) for c in itertools.combinations(weak, r)]
    messages = seen[0].messages or ("",) * BATCH
    ahead, behind = (
        QP(on_failure="mask")(
            *(block + t * d for block, d in zip(batch.blocks, batch.along, strict=True))
        )
        for t in (STEP, -STEP)
    )
    difference = (w * (ahead - behind)).sum(-1) / (2 * STEP)
    for sample in range(BATCH):
        right = [dx for c in choices if (dx := moved(batch, shape, sample, c)) is not None]
        if len(right) < len(choices):
            continue
        off = (x[sample].detach() - batch.x[sample]).norm() / (1 + batch.x[sample].norm())
        assert float(off) < 1e-9
        reach = float(w[sample].norm()) * (1 + max(float(dx.norm()) for dx in right))
        near = [abs(float(found[sample] - w[sample] @ dx)) / reach for dx in right]
        assert min(near) < 1e-6
        if not shape.weak:
            assert abs(float(found[sample] - difference[sample])) < 1e-3 * (1 + reach)
        assert (WEAK in messages[sample]) == bool(shape.weak), messages[sample]
