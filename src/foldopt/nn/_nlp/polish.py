"""From a solver's answer to one that is exact to rounding: Newton's method on the active set.

Which rows are active is decided by the larger of multiplier and slack, each in units of its own,
and again after every step (the primal–dual active set: M. Hintermüller, K. Ito, K. Kunisch, SIAM J.
Optim. 13 (2002), 865–888). From the answer of a solver two or three steps suffice. Where it takes
many, the conditions are not regular there: that is told to whoever differentiates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt.nn._nlp.model import Point
from foldopt.solvers._ipopt.derivatives import kkt_residual

__all__ = ["Polished", "polish"]

_STEPS = 8
# What is wrong, relative to its terms, at which there is nothing left to gain; and from where on
# the first step without gain is the last.
_EXACT, _ROUNDING = 1e-13, 1e-9
# Forces this small beside the curvature are not there.
_NOISE = 1e-7
# The longest step, relative to 1 + |x|. A solution is near, or this is not the place to look.
_LONGEST = 0.3
# A step longer than this, relative to 1 + |x|, or a curvature below this is looked at again.
_CREPT, _FAINT = 1e-9, 1e-8
# A step so short needs no second look.
_CLOSE = 1e-8
# A multiplier as small as rounding, relative to the forces, belongs to a row that is not active.
_NO_FORCE = 1e-13


@dataclasses.dataclass(frozen=True)
class Polished:
    """What came out.

    Attributes
    ----------
    point
        x and the multipliers; those of rows that are not active are zero.
    sides
        Of each row (inequalities, equalities, bounds): 1 active (at the upper bound), −1 at the
        lower bound, 0 not active; ``(B, M)``.
    fixed
        Which bounds are equal, ``(B, n)``, or ``(B, 0)`` without bounds.
    slack
        How far each row is from active, in units of x; 0 for active ones.
    force
        What the multipliers are to be compared with, ``(B, 1)``.
    residual
        The largest violation of a first-order condition, relative to its terms, ``(B,)``.
    creeping
        Where Newton's steps end in a point where the KKT matrix is singular, or as good as.
    moved
        How far x is from where it began, likewise.
    local, factor
        The derivatives there, and the KKT matrix.
    """

    point: Point
    sides: Tensor
    fixed: Tensor
    slack: Tensor
    force: Tensor
    residual: Tensor
    creeping: Tensor
    moved: Tensor
    local: Any
    factor: Any


@dataclasses.dataclass(frozen=True)
class _Look:
    """One point, looked at."""

    point: Point
    sides: Tensor
    slack: Tensor
    force: Tensor
    wrong: Tensor
    slope: Tensor
    rows: Tensor
    local: Any


def polish(at: Callable[[Point], Any], start: Point, lower: Tensor, upper: Tensor) -> Polished:
    """Take Newton steps from a point.

    Parameters
    ----------
    at
        Values and derivatives at a point.
    start
        A point, float64.
    lower, upper
        ``(B, n)``.
    """
    best: _Look | None = None
    point, current = start, None
    done = torch.zeros(len(start.x), dtype=torch.bool, device=start.x.device)
    for _ in range(_STEPS + 1):
        current = _look(at(point), point, lower, upper)
        if best is None:
            best, gain = current, torch.zeros_like(current.wrong)
        else:
            gain = current.wrong / best.wrong.clamp_min(1e-300)
            best = _better(current, best, current.wrong < best.wrong)
        idle = (gain > 0.5) & (best.wrong <= _ROUNDING)
        done = done | (best.wrong <= _EXACT) | idle | ~torch.isfinite(current.wrong)
        if bool(done.all()):
            break
        du, dmu, _ = _step(current, current.local.factor(current.sides != 0))
        point = _moved(current.point, du, dmu)
    assert best is not None
    assert current is not None
    if any(bool((a != b).any()) for a, b in zip(best.point, current.point, strict=True)):
        current = _look(at(best.point), best.point, lower, upper)
    point, sides = _let_go(current, lower, upper)
    factor = current.local.factor(sides != 0)
    du, dmu, length = _step(current, factor)
    last = (length <= _CLOSE) & ~factor.singular
    creeping = _creeping(at, point, current, factor, du, dmu, length)
    x, lam, nu, mu = point
    local, bounded = current.local, mu.shape[-1] > 0
    pull = local.pull(torch.cat([lam, nu], -1))
    residual = kkt_residual(
        x, local.gradient + pull, local.gradient, local.g, local.h, lam,
        mu if bounded else None, lower if bounded else None, upper if bounded else None,
    )  # fmt: skip
    # The step that told how near the solution is may as well be taken.
    point = _nudged(point, sides, du, dmu, last)
    moved = (x - start.x).abs().amax(-1) / _reach(start.x)[:, 0]
    return Polished(
        point, sides, (lower == upper)[:, : mu.shape[-1]], current.slack, current.force, residual,
        creeping, moved, local, factor,
    )  # fmt: skip


def _nudged(point: Point, sides: Tensor, du: Tensor, dmu: Tensor, where: Tensor) -> Point:
    """The point after a step, where that is wanted; no row becomes active or not."""
    new = _moved(point, du, torch.where(sides != 0, dmu, 0))
    lam = torch.where(new.inequality > 0, new.inequality, point.inequality)
    mu = torch.where(new.bounds * point.bounds > 0, new.bounds, point.bounds)
    keep = where.unsqueeze(-1)
    new = Point(new.x, torch.where(point.inequality > 0, lam, 0), new.equality, mu)
    return Point(*(torch.where(keep, a, b) for a, b in zip(new, point, strict=True)))


def _creeping(
    at: Callable[[Point], Any],
    point: Point,
    look: _Look,
    factor: Any,
    du: Tensor,
    dmu: Tensor,
    length: Tensor,
) -> Tensor:
    """Where the KKT matrix K is only what is left of one that is singular at the solution itself.

    Of x⁴ Newton's method ends with some x, and a curvature of 12x² that by itself looks like any
    other. But its next step is x/3, and 3 steps on there is none at all. So where the step is no
    rounding, or the curvature very small, K is computed there too. With d the step, |K⁻¹(K' − K)d|
    is about |d| if K is such a rest, and of the order of |d|² if not.
    """
    unsure = ~factor.singular
    unsure = unsure & ((length > _CREPT) | (factor.weakest <= _FAINT / _reach(point.x)[:, 0]))
    if not bool(unsure.any()):
        return unsure
    beyond = at(point._replace(x=point.x + 3 * du))
    turned = factor.solve(*look.local.change(beyond, du, dmu))[0].abs().amax(-1)
    size = du.abs().amax(-1)
    return unsure & ~(turned < size / 2) & (size != 0)


def _let_go(look: _Look, lower: Tensor, upper: Tensor) -> tuple[Point, Tensor]:
    """The point and its sides, without the rows that are active but have no multiplier."""
    x, lam, nu, mu = look.point
    m, k = lam.shape[-1], nu.shape[-1]
    idle_g = lam * look.local.lengths[:, :m] <= _NO_FORCE * look.force
    idle = [idle_g, torch.zeros_like(nu, dtype=torch.bool)]
    if mu.shape[-1]:
        idle.append((mu.abs() <= _NO_FORCE * look.force) & (lower != upper))
    only_just = (look.sides != 0) & torch.cat(idle, -1)
    sides = torch.where(only_just, 0, look.sides)
    lam = torch.where(only_just[:, :m], 0, lam)
    mu = torch.where(only_just[:, m + k :], 0, mu) if mu.shape[-1] else mu
    return Point(x, lam, nu, mu), sides


def _reach(x: Tensor) -> Tensor:
    return 1 + x.abs().amax(-1, keepdim=True)


def _look(local: Any, point: Point, lower: Tensor, upper: Tensor) -> _Look:
    """Which rows are active, and what is wrong with them."""
    x, lam, nu, mu = point
    m, bounded = lam.shape[-1], mu.shape[-1] > 0
    lengths, reach = local.lengths, _reach(x)
    pull = local.pull(torch.cat([lam, nu], -1))
    force = torch.maximum(local.gradient.abs().amax(-1), pull.abs().amax(-1))
    # Curvature times distance is a force too: what counts where all others are but rounding.
    stiff = (local.size * reach[:, 0]).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    largest = torch.maximum(force, stiff).unsqueeze(-1)
    force = torch.where(force > _NOISE * stiff, force, stiff).unsqueeze(-1)
    unit = reach / force
    slack_g = local.g / lengths[:, :m]
    active = (lam * lengths[:, :m] * unit + slack_g > 0).to(torch.int8)
    sides = [active, torch.ones_like(nu, dtype=torch.int8)]
    lam = torch.where(active > 0, lam.clamp_min(0), 0)
    rows = [local.g, local.h]
    slack = [-slack_g, torch.zeros_like(nu)]
    over = [torch.where(active > 0, slack_g.abs(), slack_g.clamp_min(0)), local.h / lengths[:, m:]]
    if bounded:
        fixed = lower == upper
        high = (mu * unit + (x - upper) > 0) | fixed
        low = (lower - x - mu * unit > 0) & ~high
        side = high.to(torch.int8) - low.to(torch.int8)
        mu = torch.where(side == 0, 0, mu)
        mu = torch.where((mu * side < 0) & ~fixed, 0, mu)
        off = torch.where(high, x - upper, torch.where(low, x - lower, 0))
        sides.append(side)
        rows.append(off)
        slack.append(torch.minimum(x - lower, upper - x))
        over.append(off)
    slope = local.gradient + local.pull(torch.cat([lam, nu], -1))
    slope = slope + mu if bounded else slope
    everything = torch.cat([slope / largest, *(part / reach for part in over)], -1)
    wrong = everything.abs().amax(-1)
    wrong = torch.where(torch.isfinite(wrong), wrong, torch.inf)
    joined = torch.cat(sides, -1)
    return _Look(
        Point(x, lam, nu, mu), joined, torch.where(joined != 0, 0, torch.cat(slack, -1)), force,
        wrong, slope, torch.cat(rows, -1), local,
    )  # fmt: skip


def _step(look: _Look, factor: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's step in x and the multipliers, cut where too long, and how long it would be."""
    du, dmu = factor.solve(-look.slope, -look.rows)
    length = du.abs().amax(-1, keepdim=True) / _reach(look.point.x)
    share = (_LONGEST / length).clamp_max(1).nan_to_num(0)
    finite = torch.isfinite(length)
    du, dmu = (torch.where(finite, share * part, 0) for part in (du, dmu))
    return du, dmu, torch.where(finite, length, torch.inf)[:, 0]


def _moved(point: Point, du: Tensor, dmu: Tensor) -> Point:
    x, *multipliers = point
    moves = dmu.split([part.shape[-1] for part in multipliers], -1)
    return Point(x + du, *(old + move for old, move in zip(multipliers, moves, strict=True)))


def _better(new: _Look, old: _Look, where: Tensor) -> _Look:
    """Sample by sample; what can be computed again is taken from the new one."""
    keep = where.unsqueeze(-1)
    point = Point(*(torch.where(keep, a, b) for a, b in zip(new.point, old.point, strict=True)))
    return dataclasses.replace(new, point=point, wrong=torch.where(where, new.wrong, old.wrong))
