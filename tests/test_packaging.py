"""What is installed is what pyproject.toml promises, and its import needs torch and numpy."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import pathlib
import subprocess
import sys

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

import foldopt

ROOT = pathlib.Path(__file__).parents[1]
DISTRIBUTION = "fold-opt"
EXTRAS = {
    "solvers",
    "gurobi",
    "distributed",
    "cvxpy",
    "grids",
    "pyepo",
    "experiments",
    "docs",
    "dev",
    "all",
}
# By `make test`.
INSTALLED = (None, "experiments", "cvxpy", "pyepo", "grids", "gurobi", "distributed", "docs", "dev")


def test_the_package_is_typed() -> None:
    assert importlib.resources.files(foldopt).joinpath("py.typed").is_file()


def test_the_version_has_one_source() -> None:
    # Where this fails after a new version was set, install again: make test does it once only.
    assert foldopt.__version__ == importlib.metadata.version(DISTRIBUTION)
    for name in ("pyproject.toml", "CITATION.cff"):
        assert foldopt.__version__ not in (ROOT / name).read_text(encoding="utf-8")


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = text.split("\n## ")[1]
    assert foldopt.__version__ in newest
    if ".dev" in foldopt.__version__:
        assert newest.startswith("[Unreleased]")


def test_the_core_needs_torch_and_numpy_only() -> None:
    assert {requirement.name for requirement in required(None)} == {"torch", "numpy"}


def test_extras() -> None:
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    assert set(metadata.get_all("Provides-Extra") or ()) == EXTRAS


@pytest.mark.parametrize("extra", sorted(EXTRAS - {"all"}))
def test_all_contains_the_other_extras(extra: str) -> None:
    wanted = {requirement.name for requirement in required(extra)}
    assert wanted
    assert wanted <= {requirement.name for requirement in required("all")}


def test_constraints_pin_what_ci_installs() -> None:
    pins = {pin.name: pin for pin in constraints()}
    assert str(pins["torch"].specifier) == "==2.13.0"
    for pin in pins.values():
        assert [clause.operator for clause in pin.specifier] == ["=="], f"{pin} is not a pin"
    # On Python 3.10 CI leaves some pins out: see ci.yml.
    if sys.version_info >= (3, 11):
        wanted = [required(extra) for extra in INSTALLED]
        for requirement in [one for some in wanted for one in some]:
            assert requirement.name in pins, f"constraints.txt does not pin {requirement.name}"
            (clause,) = pins[requirement.name].specifier
            assert clause.version in requirement.specifier


def test_the_import_is_light() -> None:
    heavy = {
        "scipy",
        "loky",
        "pyscipopt",
        "ipyopt",
        "moreau",
        "distributed",
        "gurobipy",
        "qpsolvers",
        "piqp",
        "cvxpy",
        "pyepo",
        "matplotlib",
        "rich",
        "typer",
        "jax",
    }
    code = f"import sys, foldopt; print(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
    assert run.stderr == ""


def constraints() -> list[Requirement]:
    """The pins of constraints.txt that hold for this Python."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


def required(extra: str | None) -> list[Requirement]:
    """What the installed package asks for: with an extra, what that adds to the core."""
    found = []
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if extra is None:
            chosen = marker is None or _holds(marker, "")
        else:
            chosen = marker is not None and _holds(marker, extra) and not _holds(marker, "")
        if not chosen:
            continue
        if requirement.name == DISTRIBUTION:  # an extra made of others
            found += [inner for part in requirement.extras for inner in required(part)]
        else:
            found.append(requirement)
    return found


def _holds(marker: Marker, extra: str) -> bool:
    return marker.evaluate({"extra": extra})
