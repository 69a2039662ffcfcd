"""The engines for convex quadratic programs: what each is, can do, and is called."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable

from foldopt.solvers._qp import active_set, first_order, interior, moreau
from foldopt.solvers._qp.program import Answer, Limits, Point, Program

__all__ = ["ENGINES", "QPEngine"]

Solve = Callable[[Program, Limits, Point | None], Answer]


@dataclasses.dataclass(frozen=True)
class QPEngine:
    """One engine.

    Attributes
    ----------
    name
        What ``solvers.QP(engine=...)`` calls it.
    package, pip
        What is imported, and what pip installs.
    solve
        Solves one program. It gets what :func:`~foldopt.solvers._qp.presolve.reduce` leaves.
    releases_gil
        Whether other threads run while it solves. Measured, not taken from a manual: a second
        thread counts its own wake-ups, with a switch interval so long that it runs only if the
        engine lets go. False also for OSQP and Moreau, which do let go, and gained next to nothing
        from a second thread all the same (1.1 to 1.3; from a second process 1.8 and more).
    dense, sparse
        Which matrices it works on; the others are converted.
    warm_start
        Whether it uses a point to start from.
    settings
        Those of our settings that it has, apart from ``threads=1``, which all have.
    licence, classes, method
        Its licence, the problems it is for, and how it solves them.
    """

    name: str
    package: str
    pip: str
    solve: Solve
    releases_gil: bool
    dense: bool
    sparse: bool
    warm_start: bool
    settings: frozenset[str]
    licence: str
    method: str
    classes: str = "convex QP, LP"

    @property
    def installed(self) -> bool:
        """Whether its package can be found; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None

    def check_installed(self) -> None:
        """Raise, with the way out, if it is not."""
        if not self.installed:
            raise ImportError(
                f"solvers.QP: engine {self.name!r} needs the package {self.package}: "
                f"pip install {self.pip}"
            )

    def check_settings(self, limits: Limits) -> None:
        """Raise if something is set that the engine does not have."""
        lacking = self.lacks(limits)
        if lacking:
            have = ", ".join(sorted(self.settings)) or "none"
            raise ValueError(
                f"solvers.QP: engine {self.name!r} has no {' and no '.join(lacking)}; it has "
                f"{have}. Leave it at its default, or take another engine"
            )

    def lacks(self, limits: Limits) -> list[str]:
        """The settings that are set and that the engine does not have."""
        return [
            field.name
            for field in dataclasses.fields(limits)
            if getattr(limits, field.name) != field.default and field.name not in self.settings
        ]


_COMMON = frozenset({"rtol", "atol", "max_iterations"})
_TIMED = _COMMON | {"time_limit"}

ENGINES: dict[str, QPEngine] = {
    engine.name: engine
    for engine in (
        QPEngine(
            "piqp", "piqp", "piqp", interior.piqp,
            releases_gil=False, dense=True, sparse=True, warm_start=False,
            settings=_COMMON, licence="BSD-2-Clause", method="proximal interior point",
        ),
        QPEngine(
            "proxqp", "proxsuite", "proxsuite", first_order.proxqp,
            releases_gil=False, dense=True, sparse=True, warm_start=True,
            settings=_COMMON, licence="BSD-2-Clause", method="proximal augmented Lagrangian",
        ),
        QPEngine(
            "daqp", "daqp", "daqp", active_set.daqp,
            releases_gil=True, dense=True, sparse=False, warm_start=True,
            settings=frozenset({"atol", "max_iterations", "time_limit"}), licence="MIT",
            method="dual active set",
        ),
        QPEngine(
            "osqp", "osqp", "osqp", first_order.osqp,
            releases_gil=False, dense=False, sparse=True, warm_start=True,
            settings=_TIMED, licence="Apache-2.0", method="ADMM",
        ),
        QPEngine(
            "clarabel", "clarabel", "clarabel", interior.clarabel,
            releases_gil=True, dense=False, sparse=True, warm_start=False,
            settings=_TIMED | {"threads"}, licence="Apache-2.0",
            method="homogeneous interior point",
        ),
        QPEngine(
            "highs", "highspy", "highspy", active_set.highs,
            releases_gil=True, dense=False, sparse=True, warm_start=False,
            settings=frozenset({"atol", "max_iterations", "time_limit", "threads"}),
            licence="MIT", method="simplex; null-space active set",
        ),
        QPEngine(
            "scs", "scs", "scs", first_order.scs,
            releases_gil=True, dense=False, sparse=True, warm_start=True,
            settings=_TIMED, licence="MIT", method="ADMM on the homogeneous embedding",
        ),
        QPEngine(
            "moreau", "moreau", "moreau", moreau.moreau,
            releases_gil=False, dense=True, sparse=True, warm_start=True,
            settings=_TIMED, licence="Apache-2.0", method="batched interior point",
        ),
    )
}  # fmt: skip
