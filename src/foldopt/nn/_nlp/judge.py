"""What a polished point is: a local minimum, with a derivative or not, or something else.

At a point where the first-order conditions hold, the solution is a smooth function of the params if
the gradients of the active constraints are independent (LICQ), the Hessian of the Lagrangian is
positive definite on their null space (the second-order condition), and no active constraint has a
multiplier of zero (strict complementarity): A. Fiacco, Introduction to Sensitivity and Stability
Analysis in Nonlinear Programming (1983), Theorem 3.2.2.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.nn._nlp.polish import Polished

__all__ = ["Verdict", "judge"]

# Relative to 1 + |x|, or to the forces: what counts as zero.
_ZERO = 1e-8
_DEPENDENT = 1e-8
_FLAT = 1e-9

SADDLE = (
    "a stationary point, but no local minimum: the Hessian of the Lagrangian has negative curvature"
    " along the active constraints. Begin elsewhere: start=, or starts= for several"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of each sample.

    Attributes
    ----------
    saddle
        The second-order condition fails for certain: the point is no minimum.
    degenerate
        The point may be a minimum, but has no derivative that could be trusted; why, in words.
    weak
        Which constraints are only just active, in words.
    """

    saddle: list[bool]
    degenerate: list[str]
    weak: list[str]


def judge(found: Polished, good: Tensor) -> Verdict:
    """Look at every sample that is ``good``, ``(B,)``; closely where something may be wrong."""
    samples = len(found.residual)
    multipliers = torch.cat(found.point[1:], -1).abs()
    m, k = found.point.inequality.shape[-1], found.point.equality.shape[-1]
    lengths = torch.cat([found.local.lengths, torch.ones_like(found.point.bounds)], -1)
    reach = 1 + found.point.x.abs().amax(-1, keepdim=True)
    active = found.sides != 0
    forced = torch.zeros_like(active)  # whatever their multipliers
    forced[:, m : m + k] = True
    forced[:, m + k :] = found.fixed
    light = active & ~forced & (multipliers * lengths <= _ZERO * found.force)
    tied = ~active & (found.slack <= _ZERO * reach)
    weak_rows = light | tied
    weak = weak_rows.any(-1)
    singular, minimum = found.factor.singular.cpu(), found.factor.minimum.cpu()
    crept = found.creeping.cpu()
    verdict = Verdict([False] * samples, [""] * samples, [""] * samples)
    regular = ~good.cpu() | (~singular & minimum & ~crept & ~weak.cpu())
    for sample in torch.nonzero(~regular).flatten().tolist():
        names = _names(found, sample, m, k, active[sample] | weak_rows[sample])
        if bool(weak[sample]):
            verdict.weak[sample] = _named(_names(found, sample, m, k, weak_rows[sample]))
        sound = not bool(singular[sample])
        if _dependent(found, sample, tied[sample], sound):
            verdict.degenerate[sample] = (
                f"the gradients of the active constraints ({_named(names)}) depend on one another "
                "(LICQ fails): the multipliers are not unique, and x need not have a derivative"
            )
            continue
        if sound and bool(minimum[sample]) and not bool(crept[sample]):
            continue
        least = _curvature(found, sample)
        if least < -_FLAT and not bool(weak[sample]) and not bool(crept[sample]):
            verdict.saddle[sample] = True
        elif least < -_FLAT:
            verdict.degenerate[sample] = (
                "the second-order condition does not hold: negative curvature along the active "
                "constraints that have a multiplier. Whether this is a minimum is open"
            )
        elif least <= _FLAT:
            verdict.degenerate[sample] = (
                "the second-order condition fails: no curvature in some direction along the active "
                "constraints. The solution is not unique, or no smooth function of the params"
            )
        elif bool(crept[sample]):
            verdict.degenerate[sample] = (
                "Newton's method converges slowly here: the curvature, or the independence of the "
                "active constraints, vanishes at the solution, and with it the derivative"
            )
    return verdict


def _dependent(found: Polished, sample: int, tied: Tensor, sound: bool) -> bool:
    """Whether the gradients of all constraints that hold with equality are dependent.

    Those of a KKT matrix that is not singular (``sound``) are not.
    """
    factor = found.factor
    if bool(tied.any()):
        factor = found.local.factor((found.sides != 0) | tied)
        sound = not bool(factor.singular[sample])
    if sound:
        return False
    _, W, _ = factor.one(sample)
    if not len(W):
        return False
    if len(W) > W.shape[-1]:
        return True
    length = torch.linalg.vector_norm(W, dim=-1, keepdim=True)
    if not bool((length > 0).all()):
        return True
    spread = torch.linalg.svdvals(W / length)
    return bool(spread[-1] <= _DEPENDENT * spread[0])


def _curvature(found: Polished, sample: int) -> float:
    """The least curvature along the held rows, relative to the largest entry of H, 1 if none."""
    H, W, _ = found.factor.one(sample)
    size = float(H.abs().max())
    if len(W):
        _, values, V = torch.linalg.svd(W, full_matrices=True)
        H = V[len(values) :] @ H @ V[len(values) :].mT
    if not H.numel():
        return 1.0
    if size == 0:
        return 0.0
    return float(torch.linalg.eigvalsh(H)[0]) / size


def _names(found: Polished, sample: int, m: int, k: int, rows: Tensor) -> list[str]:
    sides, x = found.sides[sample], found.point.x[sample]
    named = []
    for row in torch.nonzero(rows).flatten().tolist():
        if row < m:
            named.append(f"inequality {row}")
        elif row < m + k:
            named.append(f"equality {row - m}")
        else:
            i = row - m - k
            side = {1: "upper ", -1: "lower "}.get(int(sides[row]), "")
            named.append(f"{side}bound of x[{i}] = {float(x[i]):.3g}")
    return named


def _named(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
