"""Moreau: a whole batch of programs of one structure in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.forms import as_conic, from_conic, to_conic
from foldopt.solvers._qp.program import Answer, Limits, Point, Program
from foldopt.status import Status

__all__ = ["moreau", "moreau_batch", "structure"]

_STATUS = {
    "Solved": Status.CONVERGED,
    "AlmostSolved": Status.INACCURATE,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.MAX_ITERATIONS,
    "MaxTime": Status.TIME_LIMIT,
}


def moreau(program: Program, limits: Limits, start: Point | None) -> Answer:
    """One program alone."""
    return moreau_batch([program], limits, [start])[0]


def moreau_batch(
    programs: Sequence[Program], limits: Limits, starts: Sequence[Point | None]
) -> list[Answer]:
    """Programs of one :func:`structure` at once, by interior point."""
    import moreau as engine

    first = programs[0]
    forms = [as_conic(program) for program in programs]
    q_rows, q_values = _pattern([program.hessian() for program in programs])
    c_rows, c_values = _pattern([form.C for form in forms])
    rtol, atol = limits.tolerances(1e-9, 1e-9)
    optional = {"max_iter": limits.max_iterations, "time_limit": limits.time_limit}
    settings = engine.Settings(
        device="cpu",
        solver="ipm",
        batch_size=len(programs),
        ipm_settings=engine.IPMSettings(tol_gap_abs=atol, tol_gap_rel=rtol, tol_feas=rtol),
        **{name: value for name, value in optional.items() if value is not None},
    )
    zeros, rows = forms[0].zeros, len(forms[0].d)
    cones = engine.Cones(num_zero_cones=zeros, num_nonneg_cones=rows - zeros)
    solver = engine.CompiledSolver(
        len(first.p), rows, *q_rows, *c_rows, cones=cones, settings=settings
    )
    solver.setup(q_values, c_values)
    p = np.stack([program.p for program in programs])
    d = np.stack([form.d for form in forms])
    found = solver.solve(p, d, warm_start=_warm(engine, forms, starts))
    info: Any = solver.info
    return [
        Answer(
            _STATUS.get(verdict.name, Status.FAILED),
            from_conic(program, form, np.array(x), np.array(z)),
            verdict.name,
        )
        for program, form, verdict, x, z in zip(
            programs, forms, info.status, found.x, found.z, strict=True
        )
    ]


def structure(program: Program) -> tuple[Any, ...]:
    """What two programs must have in common to be solved in one call."""
    bounds = (np.isfinite(program.lower).tobytes(), np.isfinite(program.upper).tobytes())
    return (len(program.p), len(program.h), len(program.b), *bounds)


def _warm(engine: Any, forms: Sequence[Any], starts: Sequence[Point | None]) -> Any:
    points = [point for point in starts if point is not None]
    if len(points) < len(starts):
        return None
    x = np.stack([point.x for point in points])
    z = np.stack([to_conic(form, point) for form, point in zip(forms, points, strict=True)])
    s = np.stack([form.d - form.C @ point.x for form, point in zip(forms, points, strict=True)])
    return engine.BatchedWarmStart(x=x, z=z, s=s)


def _pattern(matrices: Sequence[Any]) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """CSR offsets and columns that hold all the matrices, and their values there."""
    if _scipy.sparse.issparse(matrices[0]):
        union: Any = _scipy.sparse.csr_matrix(sum(_ones(M) for M in matrices))
        union.sort_indices()
        offsets, columns = union.indptr.astype(np.int64), union.indices.astype(np.int64)
        if not len(columns):
            return (offsets, columns), np.zeros((len(matrices), 0))
        rows = np.repeat(np.arange(union.shape[0]), np.diff(offsets))
        values = [np.asarray(M[rows, columns]).reshape(-1) for M in matrices]
        return (offsets, columns), np.stack(values)
    count, width = matrices[0].shape
    offsets = np.arange(count + 1) * width
    columns = np.tile(np.arange(width), count)
    return (offsets, columns), np.stack([M.ravel() for M in matrices])


def _ones(M: Any) -> Any:
    pattern = _scipy.sparse.csr_matrix(M, copy=True)
    pattern.data[:] = 1
    return pattern
