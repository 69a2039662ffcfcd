"""Quadratic constraints as second-order cones, and their multipliers back from there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._conic.cones import Cones
from foldopt.solvers._conic.program import ConicLimits, ConicProgram
from foldopt.solvers._conic.quadratic_program import QuadraticProgram, newton
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers.conic import solve_conic
from foldopt.status import Status

__all__ = ["Answer", "solve_quadratic"]


class Answer(NamedTuple):
    """x and the multipliers, None where the engine has none."""

    status: Status
    x: np.ndarray | None
    multipliers: Multipliers | None
    said: str


class _Cone(NamedTuple):
    """A quadratic constraint as rows Cx + s = d, s in a second-order cone; see :func:`_cone`.

    Its multiplier is the sum of the first ``summed`` entries of the dual, divided by ``scale``.
    """

    C: np.ndarray
    d: np.ndarray
    scale: float
    summed: int


def solve_quadratic(qcqp: QuadraticProgram, engine: str, limits: ConicLimits) -> Answer:
    """Solve one program by cones, in units in which its objective and constraints have size one."""
    n, k, m = len(qcqp.p), len(qcqp.b), len(qcqp.h)
    cones = [_cone(*one) for one in zip(qcqp.Qs, qcqp.ps, qcqp.rs, strict=True)]
    above, below = np.isfinite(qcqp.upper), np.isfinite(qcqp.lower)
    eye = np.eye(n)
    rows = [qcqp.A, qcqp.G, eye[above], -eye[below], *(cone.C for cone in cones)]
    sides = [qcqp.b, qcqp.h, qcqp.upper[above], -qcqp.lower[below], *(cone.d for cone in cones)]
    linear = m + int(above.sum()) + int(below.sum())
    size = float(max(np.abs(qcqp.Q).max(), np.abs(qcqp.p).max())) or 1.0
    program = ConicProgram(
        _scipy.sparse.csc_matrix(qcqp.Q / size),
        qcqp.p / size,
        _scipy.sparse.csc_matrix(np.concatenate(rows)),
        np.concatenate(sides),
        Cones(zero=k, nonnegative=linear, second_order=tuple(len(cone.d) for cone in cones)),
    )
    status, point, said = solve_conic(program, engine, limits)
    said = "" if status == Status.CONVERGED else said
    if point is None:
        return Answer(status, None, None, said)
    z = size * point.z
    first, quadratic = k + linear, []
    for cone in cones:
        quadratic.append(z[first : first + cone.summed].sum() / cone.scale)
        first += len(cone.d)
    mu = np.zeros(n)
    mu[above] += z[k + m : k + m + above.sum()]
    mu[below] -= z[k + m + above.sum() : k + linear]
    inequality = np.maximum(np.concatenate([quadratic, z[k : k + m]]), 0.0)
    if status not in (Status.CONVERGED, Status.INACCURATE):
        return Answer(status, point.x, Multipliers(inequality, z[:k], mu), said)
    # Of the conic conditions, z and s orthogonal to 1e-12 is as good as it gets. But the angle
    # between them is then wrong by 1e-6, and so are the multipliers: they are polished.
    x, multipliers, error = newton(qcqp, point.x, Multipliers(inequality, z[:k], mu))
    if error <= limits.atol + limits.rtol:
        status, said = Status.CONVERGED, ""
    return Answer(status, x, multipliers, said)


def _cone(Q: np.ndarray, p: np.ndarray, r: float) -> _Cone:
    r"""½xᵀQx + pᵀx ≤ r as a cone, in units that make its rows of size one.

    Let Q = FFᵀ. Where p = −Qc for some c, the square completed is ½‖Fᵀ(x − c)‖² ≤ r + ½cᵀQc =: ρ,
    and if ρ > 0, with σ = 2ρ,

        s = (1, Fᵀ(x − c)/√σ),   ‖s₁‖ ≤ s₀:   rows (0, −Fᵀ/√σ) x + s = (1, −Fᵀc/√σ).

    Its dual z gives −F z₁/√σ to Aᵀz. At the solution s and z, both in the cone, are orthogonal:
    z = κ (s₀, −s₁), κ = z₀. So −F z₁/√σ = κ FFᵀ(x − c)/σ = (κ/σ)(Qx + p): the multiplier is
    λ = z₀/σ.

    Otherwise, with τ = (r − pᵀx)/σ for any σ > 0, the constraint is ‖Fᵀx‖²/σ ≤ 2τ, and 2τ is the
    difference of the squares of τ + ½ and τ − ½:

        s = (τ + ½, τ − ½, Fᵀx/√σ):   rows (pᵀ/σ, pᵀ/σ, −Fᵀ/√σ) x + s = (r/σ + ½, r/σ − ½, 0).

    That gives (z₀ + z₁) p/σ − F z₂/√σ to Aᵀz, with z = κ (s₀, −s₁, −s₂), z₀ + z₁ = κ (s₀ − s₁) = κ
    and −F z₂/√σ = κ Qx/σ. So λ = (z₀ + z₁)/σ.
    """
    values, vectors = np.linalg.eigh(Q)
    kept = values > len(p) * np.finfo(float).eps * np.abs(values).max()
    values, vectors = values[kept], vectors[:, kept]
    F = vectors * np.sqrt(values)
    along = vectors.T @ p
    c = -vectors @ (along / values)
    rho = r + 0.5 * float((along**2 / values).sum())
    outside = np.linalg.norm(p - vectors @ along)
    if kept.any() and rho > 1e-12 * abs(r) and outside <= 1e-13 * np.linalg.norm(p):
        root = np.sqrt(2 * rho)
        C = np.concatenate([np.zeros((1, len(p))), -F.T / root])
        return _Cone(C, np.concatenate([[1.0], -F.T @ c / root]), 2 * rho, 1)
    sigma = max(float(np.abs(Q).max()), float(np.abs(p).max()), abs(r)) or 1.0
    C = np.concatenate([p[None] / sigma, p[None] / sigma, -F.T / np.sqrt(sigma)])
    d = np.concatenate([[r / sigma + 0.5, r / sigma - 0.5], np.zeros(F.shape[1])])
    return _Cone(C, d, sigma, 2)
