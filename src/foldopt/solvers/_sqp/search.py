"""The line search of SQP: every sample its own step length, all tried at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from foldopt._program import Program
from foldopt.operators._inverse import matvec
from foldopt.solvers._sqp.model import Local

__all__ = ["Merit", "search"]

_SLOPE = 1e-4  # the part of the promised decrease that must come true (Armijo)
_HALVINGS = 40


@dataclasses.dataclass(frozen=True)
class Merit:
    """What must go down: f + ρ (‖[g]₊‖₁ + ‖h‖₁), or ½‖[g]₊‖² + ½‖h‖² where ``restoring``."""

    program: Program
    params: tuple[Any, ...]
    rho: Tensor
    restoring: Tensor

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The merit, g and h."""
        program = self.program

        def values(y: Tensor, *c: Any) -> tuple[Tensor, Tensor, Tensor]:
            return (
                program.checked_value(program.objective(y, *c)),
                program.inequalities(y, c),
                program.equalities(y, c),
            )

        with torch.no_grad():
            f, g, h = program.each(values, x, self.params)
        return self.of(f, g, h), g, h

    def of(self, f: Tensor, g: Tensor, h: Tensor) -> Tensor:
        over = torch.cat([g.clamp_min(0), h], -1)
        penalty = f + self.rho * over.abs().sum(-1)
        return torch.where(self.restoring, 0.5 * over.square().sum(-1), penalty)


def search(
    merit: Merit, local: Local, x: Tensor, d: Tensor, slope: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The new x, the step length α of each sample, and whether one was found.

    ``slope`` is the merit's directional derivative, or a bound above it. Where the full step fails,
    it is tried once more with a second-order correction: near a solution the ℓ₁ merit may refuse
    full steps, and convergence would stay linear (the Maratos effect).
    """
    start = merit.of(local.f, local.g, local.h)
    # Rounding in the merit itself must not refuse a step.
    noise = 10 * torch.finfo(x.dtype).eps * (1 + start.abs())
    longest = 1e3 * (1 + x.abs().amax(-1)) / d.abs().amax(-1).clamp_min(1e-300)
    alpha = longest.clamp_max(1.0)
    found = torch.zeros_like(alpha, dtype=torch.bool)
    new = x
    for turn in range(_HALVINGS):
        trial = x + alpha[..., None] * d
        value, g, h = merit(trial)
        fine = (value <= start + _SLOPE * alpha * slope + noise) & ~found
        new = torch.where(fine[..., None], trial, new)
        found = found | fine
        if turn == 0 and bool((~found & ~merit.restoring).any()):
            correction = _second_order(local, active, g, h)
            corrected = trial + correction
            value = merit(corrected)[0]
            small = correction.norm(dim=-1) <= d.norm(dim=-1)
            fine = (value <= start + _SLOPE * alpha * slope + noise) & ~found & small
            fine = fine & ~merit.restoring & (alpha == 1)
            new = torch.where(fine[..., None], corrected, new)
            found = found | fine
        if bool(found.all()):
            break
        alpha = torch.where(found, alpha, alpha / 2)
    return new, torch.where(found, alpha, 0), found


def _second_order(local: Local, active: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """The least step that brings the constraints that should be active back to zero."""
    J = torch.cat([torch.where(active[..., None], local.G, 0), local.A], -2)
    r = torch.cat([torch.where(active, g, 0), h], -1)
    finite = torch.isfinite(r).all(-1, keepdim=True)
    if not J.shape[-2]:
        return torch.zeros_like(local.gradient)
    return torch.where(finite, -matvec(torch.linalg.pinv(J), torch.where(finite, r, 0)), 0)
