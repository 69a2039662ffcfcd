"""The forward pass: solve, take the answer to rounding error, and say what it is.

A solver finds a point, from one start or from several. Newton's method on its active set makes it
exact (:mod:`~foldopt.nn._nlp.polish`), a look at the KKT matrix tells whether it is a minimum and
has a derivative (:mod:`~foldopt.nn._nlp.judge`), and the factors of that matrix serve the adjoint.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from foldopt._tree import flatten, unflatten
from foldopt.nn._nlp.adjoint import Answer
from foldopt.nn._nlp.dense import dense_at
from foldopt.nn._nlp.engines import Found
from foldopt.nn._nlp.judge import SADDLE, judge
from foldopt.nn._nlp.model import Model, Point
from foldopt.nn._nlp.polish import Polished, polish
from foldopt.nn._nlp.sparse import complete, sparse_at
from foldopt.solvers._ipopt.derivatives import detect
from foldopt.solvers._ipopt.sparsity import Pattern, full_pattern
from foldopt.status import FoldWarning, Status

__all__ = ["Settled", "best_of", "chosen", "pattern_of", "sample_of", "settle"]

# The largest relative KKT residual of what counts as solved.
_RESIDUAL = 1e-8
# How far Newton's method may take x from the solver's answer, relative to 1 + |x|.
_NEAR = 0.1
# Answers that the optimality conditions may overrule.
_OPEN = (Status.CONVERGED, Status.INACCURATE, Status.STAGNATED)
# Two optima nearer than this, relative to 1 + |x|, are one.
_SAME = 1e-5


@dataclasses.dataclass(frozen=True)
class Settled:
    """What the forward pass has found.

    Attributes
    ----------
    point
        Multipliers are NaN where there is no solution, and x is the solver's last, or NaN.
    status, messages
        Of each sample.
    value
        f, ``(B,)``.
    answer
        For the adjoint.
    """

    point: Point
    status: Tensor
    messages: tuple[str, ...]
    value: Tensor
    answer: Answer


def settle(
    model: Model,
    found: Found,
    params: tuple[Any, ...],
    bounds: tuple[Tensor, Tensor],
    pattern: Pattern | None,
) -> Settled:
    """Make a solver's answer exact, and judge it.

    Parameters
    ----------
    found
        The answer.
    params
        In float64, with one batch dimension.
    bounds
        ``(B, n)`` each.
    pattern
        Where the derivatives are not zero: every sample then has sparse matrices of its own. None:
        the batch has dense ones.
    """
    parts = []
    if pattern is None:
        parts.append(polish(lambda z: dense_at(model, z, params), _finite(found.point), *bounds))
    else:
        start = _finite(found.point)
        for i in range(len(found.status)):
            alone, own = sample_of(model, params, found.point.x, i), slice(i, i + 1)
            point = Point(*(part[own].cpu() for part in start))
            limits = tuple(limit[own].cpu() for limit in bounds)
            parts.append(_sparsely(model, alone, point, limits, pattern))
    samples = 1 if pattern is not None else len(found.status)
    pieces = [
        verdict_of(part, _some(found, slice(i * samples, (i + 1) * samples)))
        for i, part in enumerate(parts)
    ]
    device = found.status.device
    return Settled(
        Point(
            *(torch.cat(each).to(device) for each in zip(*(p.point for p in pieces), strict=True))
        ),
        torch.cat([piece.status for piece in pieces]).to(device),
        tuple(text for piece in pieces for text in piece.messages),
        torch.cat([piece.value for piece in pieces]).to(device),
        Answer(
            tuple(factor for piece in pieces for factor in piece.answer.factors),
            tuple(text for piece in pieces for text in piece.answer.degenerate),
        ),
    )


def _sparsely(
    model: Model,
    params: tuple[Any, ...],
    start: Point,
    bounds: tuple[Tensor, ...],
    pattern: Pattern,
) -> Polished:
    """One sample with sparse matrices; with full ones if the pattern turns out to be wrong."""
    part = polish(lambda z: sparse_at(model, z, params, pattern), start, *bounds)
    if complete(part.local, model, part.point, params):
        return part
    warnings.warn(
        "nn.NLP: derivatives that were zero at random points are not zero at the solution; all "
        "entries are computed instead, which is slow. Likely cause: a branch (max, where, abs) "
        "that those points did not take. sparse=False never looks for zeros",
        FoldWarning,
        stacklevel=2,
    )
    full = full_pattern(part.local.J.shape[0], start.x.shape[-1])
    return polish(lambda z: sparse_at(model, z, params, full), start, *bounds)


def verdict_of(part: Polished, found: Found) -> Settled:
    """What a polished answer of some samples comes to."""
    status, messages = found.status.clone().to(part.residual.device), list(found.messages)
    open_to = torch.zeros_like(status, dtype=torch.bool)
    for code in _OPEN:
        open_to |= status == int(code)
    open_to &= torch.isfinite(found.point.x).all(-1).to(open_to.device)
    exact = open_to & (part.residual <= _RESIDUAL) & (part.moved <= _NEAR)
    verdict = judge(part, exact)
    keep = exact.unsqueeze(-1)
    for i, is_exact in enumerate(exact.tolist()):
        if is_exact:
            words = SADDLE if verdict.saddle[i] else verdict.degenerate[i], _weak(verdict.weak[i])
            messages[i] = "; ".join(text for text in words if text)
    for i in torch.nonzero(open_to & ~exact).flatten().tolist():
        messages[i] = _unsolved(messages[i], float(part.residual[i]), float(part.moved[i]))
    inexact = open_to & ~exact & (status == int(Status.CONVERGED))
    status = torch.where(inexact, int(Status.INACCURATE), status)
    saddle = torch.tensor(verdict.saddle, dtype=torch.bool, device=status.device)
    solved = torch.where(saddle, int(Status.FAILED), int(Status.CONVERGED))
    status = torch.where(exact, solved, status)
    x = torch.where(keep, part.point.x, found.point.x.to(part.point.x))
    rest = (torch.where(keep, block, torch.nan) for block in part.point[1:])
    return Settled(
        Point(x, *rest), status, tuple(messages), part.local.value,
        Answer((part.factor,), tuple(verdict.degenerate)),
    )  # fmt: skip


def _weak(names: str) -> str:
    if not names:
        return ""
    return (
        f"only just active, without a multiplier of any size: {names}. The solution has one-sided "
        "derivatives there; the one given is an element of the generalized Jacobian"
    )


def _unsolved(said: str, residual: float, moved: float) -> str:
    reason = (
        f"the relative KKT residual of its answer, after Newton's method, is {residual:.1e}"
        if not residual <= _RESIDUAL
        else f"Newton's method leads away from its answer, by {moved:.1e} of its size"
    )
    return (
        f"{said}; {reason}"
        if said
        else (
            f"{reason}: no stationary point of this program is near. Likely causes: the solver "
            "stopped early or solves another program (a sign, a constraint, the order of the "
            "params), or no multipliers exist there"
        )
    )


def chosen(settled: Settled, times: int) -> tuple[Tensor, list[str]]:
    """Of ``times`` answers in a row for each sample the best, and what there is to say of others.

    Returns
    -------
    index, said
        ``(B,)`` into all the answers; a text for each sample, "" where all starts agree.
    """
    good = ~Status.failed(settled.status).reshape(-1, times)
    value = torch.where(good, settled.value.reshape(-1, times), torch.inf)
    best = value.argmin(-1)
    x = settled.point.x.reshape(*good.shape, -1)
    said = []
    for i, j in enumerate(best.tolist()):
        reach = 1 + float(x[i, j].abs().max())
        far = (x[i] - x[i, j]).abs().amax(-1) > _SAME * reach
        others = value[i][good[i] & far]
        lost = times - int(good[i].sum())
        words = []
        if len(others):
            words.append(
                f"{len(others)} of {times} starts ended in other local optima, with objectives "
                f"from {float(others.min()):.6g} to {float(others.max()):.6g}; the best, "
                f"{float(value[i, j]):.6g}, was kept, which need not be the global one"
            )
        if lost and lost < times:
            words.append(f"{lost} of {times} starts were not solved")
        said.append("; ".join(words))
    return best + times * torch.arange(len(best), device=best.device), said


def best_of(found: Found, index: Tensor) -> Found:
    """Some of the answers."""
    point = Point(*(part[index] for part in found.point))
    return Found(point, found.status[index], tuple(found.messages[i] for i in index.tolist()))


def pattern_of(
    model: Model, params: tuple[Any, ...], x: Tensor, patterns: dict[Any, Any]
) -> Pattern:
    """Where the derivatives of one sample are not zero, looked for once (as solvers.Ipopt does)."""
    with torch.no_grad():
        m = len(model.program.inequalities(x, params)) + len(model.program.equalities(x, params))
    leaves, _ = flatten(params)
    key = (len(x), m, tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)))
    if key not in patterns:
        patterns[key] = detect(model.program, params, x, m, torch.Generator().manual_seed(0))
    return patterns[key]


def sample_of(model: Model, params: tuple[Any, ...], x: Tensor, i: int) -> tuple[Any, ...]:
    """The params of one sample, on the CPU."""
    leaves, spec = flatten(params)
    params = unflatten([leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
    dims = model.program.in_dims(x, params)
    return tuple(
        _row(param, i) if dim == 0 else param for param, dim in zip(params, dims, strict=True)
    )


def _finite(point: Point) -> Point:
    return Point(*(torch.where(torch.isfinite(part), part, 0) for part in point))


def _some(found: Found, rows: slice) -> Found:
    point = (
        Point(*(part[rows].cpu() for part in found.point))
        if rows.stop - rows.start == 1
        else (Point(*(part[rows] for part in found.point)))
    )
    return Found(point, found.status[rows], found.messages[rows])


def _row(param: Any, i: int) -> Any:
    leaves, spec = flatten(param)
    return unflatten([leaf[i] if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
