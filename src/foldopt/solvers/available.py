"""Which engines there are, and which of them are here."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from typing import Any

from foldopt.solvers import conic, global_qp, ipopt, quadratically_constrained
from foldopt.solvers._qp import table

__all__ = ["Engine", "available"]


@dataclasses.dataclass(frozen=True)
class Engine:
    """One engine of one solver.

    Attributes
    ----------
    solver, name
        What to write: ``solvers.QP(engine="piqp")`` is solver ``"QP"`` and name ``"piqp"``; the
        name is empty for solvers of this library's own.
    version
        Of what is installed; None: it is not here.
    problems
        The classes of problems that it solves.
    licence
        Its licence, and the limits that come with it.
    workers
        How a batch is spread by ``executor="auto"``: ``"threads"``, if it lets other threads run,
        ``"processes"`` if not, ``"batched"`` if it takes a whole batch at once.
    install
        The command that installs it.
    """

    solver: str
    name: str
    version: str | None
    problems: str
    licence: str
    workers: str
    install: str


# Ours, in torch: they take a batch at once, on any device.
_OWN = {
    "SQP": "smooth nonlinear programs (local solutions)",
    "ADMM": "convex QP, LP",
    "FISTA": "smooth + prox",
    "FDPG": "½‖x − d‖² + λ‖Dx‖₁ and other g(Dx)",
    "ProjectedGradient": "smooth on a simple set, with restarts",
}
_TABLES: dict[str, dict[str, Any]] = {
    "QP": table.ENGINES,
    "GlobalQP": global_qp.ENGINES,
    "Conic": conic.ENGINES,
    "QCQP": quadratically_constrained.ENGINES,
    "Ipopt": ipopt.ENGINES,
}


def available() -> tuple[Engine, ...]:
    """List the engines of every solver, those that are installed and those that could be.

    Nothing is imported for that.

    Returns
    -------
    engines
        One :class:`Engine` each, by solver.

    Examples
    --------
    >>> from foldopt import solvers
    >>> [engine.name for engine in solvers.available() if engine.solver == "GlobalQP"]
    ['scip', 'gurobi']
    """
    engines = [
        _engine(solver, name, given if isinstance(given, dict) else vars(given))
        for solver, table in _TABLES.items()
        for name, given in table.items()
    ]
    engines += [
        Engine(name, "", _version("fold-opt"), problems, "Apache-2.0", "batched", "")
        for name, problems in _OWN.items()
    ]
    return tuple(engines)


def _engine(solver: str, name: str, given: dict[str, Any]) -> Engine:
    here = importlib.util.find_spec(given["package"]) is not None
    return Engine(
        solver=solver,
        name=name,
        version=_version(given["pip"]) if here else None,
        problems=given["classes"],
        licence=given["licence"] or "",
        workers="threads" if given["releases_gil"] else "processes",
        install=f"pip install {given['pip']}",
    )


def _version(package: str) -> str:
    """What pip says; a package that came another way, from conda or a checkout, may be unknown."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
