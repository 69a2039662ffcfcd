"""The adjoint system of a nonlinear program, solved with the factors of the forward pass."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt.linear import Dense, LinearOperator, LinearSolution
from foldopt.linear._common import finish, norm
from foldopt.status import FoldError, Status

__all__ = ["KKT", "Answer", "Degenerate"]

Degenerate = Literal["raise", "least-squares", "damped"]

# Singular values below this, relative to the largest, count as zero in a least-squares answer.
_ZERO = 1e-9


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the forward pass leaves.

    Attributes
    ----------
    factors
        Of consecutive samples, as many as each says: the whole batch, or one.
    degenerate
        Why a sample has no derivative, "" where it has one.
    """

    factors: tuple[Any, ...]
    degenerate: tuple[str, ...]

    def place(self, sample: int) -> tuple[Any, int]:
        """The factor that a sample belongs to, and its number there."""
        for factor in self.factors:
            if sample < factor.samples:
                return factor, sample
            sample -= factor.samples
        raise IndexError(sample)


class KKT:
    """A solver of (I − Φᵀ) v = g for the step of a nonlinear program.

    I − Φ is the symmetric KKT matrix of the active rows, and the identity on the other multipliers.
    One object serves one call of the layer: the forward pass leaves its factors here, once, or once
    for each row of a dimension that ``vmap`` adds, in their order.
    """

    def __init__(
        self, degenerate: Degenerate, damping: float, on_failure: str, name: str = "nn.NLP"
    ) -> None:
        self.degenerate, self.damping, self.on_failure = degenerate, damping, on_failure
        self.name = name  # for messages
        self.answers: list[Answer] = []

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n + m + k (+ n))``."""
        answer = Answer(
            tuple(factor for one in self.answers for factor in one.factors),
            tuple(text for one in self.answers for text in one.degenerate),
        )
        if len(answer.degenerate) != b.shape[-2]:
            return self._unknown(operator, b, answer)
        right = b.double()
        rows = right.split([factor.samples for factor in answer.factors], -2)
        parts = [_solved(f, row) for f, row in zip(answer.factors, rows, strict=True)]
        v, residual = (torch.cat(pieces, -2) for pieces in zip(*parts, strict=True))
        eps = torch.finfo(b.dtype).eps
        reach = eps**0.7 * norm(right) + 64 * eps * b.shape[-1] ** 0.5 * norm(v)
        found = finish(right, v, residual, reach, 1, Status.BREAKDOWN, "KKT")
        status = found.status
        if any(answer.degenerate):
            v, status = self._singled_out(answer, right, v, status)
        failed = bool(Status.failed(status).any())
        return LinearSolution(
            v.to(b), status, found.iterations, found.residual.to(b), found.method, not failed
        )

    def _unknown(self, operator: LinearOperator, b: Tensor, answer: Answer) -> LinearSolution:
        """Of samples that are not those of the forward pass, as far as can be told."""
        if self.degenerate == "raise" and any(answer.degenerate):
            wanted = [i for i, text in enumerate(answer.degenerate) if text]
            raise FoldError(_message(self.name, wanted, answer))
        return Dense(least_squares=self.degenerate != "raise").solve(operator, b)

    def _singled_out(
        self, answer: Answer, right: Tensor, v: Tensor, status: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The samples without a derivative: refused, or given what was asked for."""
        samples = [i for i, text in enumerate(answer.degenerate) if text]
        wanted = [i for i in samples if bool((right[..., i, :] != 0).any())]
        v, status = v.clone(), status.clone()
        if self.degenerate == "raise":
            if wanted and self.on_failure == "raise":
                codes = torch.zeros(right.shape[-2], dtype=torch.int64)
                codes[wanted] = int(Status.BREAKDOWN)
                raise FoldError(_message(self.name, wanted, answer), codes)
            status[..., wanted] = int(Status.BREAKDOWN)
            return v, status
        damping = self.damping if self.degenerate == "damped" else None
        for i in samples:
            factor, row = answer.place(i)
            H, W, rows = factor.one(row)
            n = len(H)
            mine = right[..., i, :].to(H)
            found = _filtered(H, W, torch.cat([mine[..., :n], mine[..., n + rows]], -1), damping)
            mine = mine.clone()
            mine[..., :n], mine[..., n + rows] = found[..., :n], found[..., n:]
            v[..., i, :] = mine.to(v)
        status[..., samples] = int(Status.LEAST_SQUARES)
        return v, status


def _solved(factor: Any, right: Tensor) -> tuple[Tensor, Tensor]:
    """v, and what is left of the right-hand side."""
    n, given = factor.n, right.to(factor.device)
    u, mu = factor.solve(given[..., :n], given[..., n:])
    a, c = factor.product(u, mu)
    held = factor.held(given[..., n:])
    rest = torch.cat([given[..., :n] - a, torch.where(held, given[..., n:] - c, 0)], -1)
    # A multiplier that is not active is its own equation.
    v = torch.cat([u, torch.where(held, mu, given[..., n:])], -1)
    return v.to(right), rest.to(right)


def _message(name: str, wanted: list[int], answer: Answer) -> str:
    i = wanted[0]
    return (
        f"{name}: there is no gradient to give for {len(wanted)} of {len(answer.degenerate)} "
        f"samples. Sample {i}: {answer.degenerate[i]}. Regularise the program or drop what is "
        "redundant in it; or ask for degenerate='least-squares' or 'damped', which give the "
        "gradient of a nearby model; on_failure='mask' gives these samples a zero gradient and "
        "keeps the others."
    )


def _filtered(H: Tensor, W: Tensor, b: Tensor, damping: float | None) -> Tensor:
    """K⁺b, or with damping δ (relative to K) the b that minimises ‖Kv − b‖² + δ²‖v‖²."""
    corner = H.new_zeros(len(W), len(W))
    K = torch.cat([torch.cat([H, W.mT], -1), torch.cat([W, corner], -1)], -2)
    values, vectors = torch.linalg.eigh(K)
    size = values.abs().amax()
    if damping is None:
        zero = values.abs() <= _ZERO * size
        inverse = torch.where(zero, 0, 1 / torch.where(zero, 1, values))
    else:
        inverse = values / (values.square() + (damping * size).square())
    return ((b @ vectors) * inverse) @ vectors.mT
