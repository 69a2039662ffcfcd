"""What is installed is what pyproject.toml promises, and its import needs torch and numpy."""

from __future__ import annotations

import email
import importlib.metadata
import importlib.resources
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile
from typing import NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

import foldopt
from foldopt import _versions

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
    unreleased, *released = text.split("\n## ")[1:]
    assert unreleased.startswith("[Unreleased]\n")
    versions = [re.match(r"\[(\d+\.\d+\.\d+)\] - 20\d\d-\d\d-\d\d\n", part) for part in released]
    assert all(versions), "a section is headed by its version and its date"
    known = [version[1] for version in versions if version]
    assert known == sorted(known, key=Version, reverse=True)
    if Version(foldopt.__version__).is_devrelease:
        assert Version(known[0]) < Version(foldopt.__version__)
    else:
        assert known[0] == foldopt.__version__


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


# -- what is built --------------------------------------------------------------------------------


class Built(NamedTuple):
    """The two files of a release, and the names in them."""

    wheel: pathlib.Path
    sdist: pathlib.Path

    @property
    def in_wheel(self) -> set[str]:
        return set(zipfile.ZipFile(self.wheel).namelist())

    @property
    def in_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as file:
            return {name.partition("/")[2] for name in file.getnames()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("hatchling")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    folder = str(tmp_path_factory.mktemp("dist"))
    wheel, sdist = (
        next(builder(str(ROOT)).build(directory=folder)) for builder in (WheelBuilder, SdistBuilder)
    )
    return Built(pathlib.Path(wheel), pathlib.Path(sdist))


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "foldopt").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    about = f"fold_opt-{foldopt.__version__}.dist-info"
    parts = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert built.in_wheel == sources | {f"{about}/{part}" for part in parts}
    assert built.wheel.name == f"fold_opt-{foldopt.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built.wheel) as file:
        metadata = email.message_from_bytes(file.read(f"{about}/METADATA"))
        assert file.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {Requirement(line).name for line in core} == {"torch", "numpy"}
    assert metadata["Version"] == foldopt.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert str(metadata.get_payload()).startswith("# fold-opt")


def test_the_sdist_holds_what_its_tests_read(built: Built) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("src", "tests", "docs", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", ".hypothesis"} & set(path.parts)
    }
    wanted = {name for name in wanted if not re.fullmatch(r"docs/[^/]*\.html", name)}
    assert {"docs/hooks/reference.py", "docs/gallery/index.md", "tests/conftest.py"} <= wanted
    root = {
        "pyproject.toml", "constraints.txt", "Makefile", "mkdocs.yml", "LICENSE", "README.md",
        "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "PKG-INFO",
    }  # fmt: skip
    assert built.in_sdist - {".gitignore"} == wanted | root


# What each part that needs an engine is asked in an installation of torch and numpy alone.
ASKED = {
    "QP": "solvers.QP()(Q, c, lower=0.0)",
    "QP, one engine": "solvers.QP('daqp')(Q, c)",
    "Conic": "solvers.Conic(solvers.Cones(nonnegative=3))(Q, c, Q, c)",
    "QCQP": "solvers.QCQP()(Q, c, Q[None], c[None], c[:1])",
    "GlobalQP": "solvers.GlobalQP()(Q, c)",
    "GlobalQP, Gurobi": "solvers.GlobalQP('gurobi')(Q, c)",
    "Ipopt": "solvers.Ipopt(lambda x: x @ x, n=3)()",
    "processes": "solvers.solve_batch(abs, c, executor='processes')",
    "nn.QP": "fo.nn.QP()(Q, c, lower=0.0)",
    "nn.NLP": "fo.nn.NLP(lambda x, c: x @ x - c @ x, n=3)(c[None])",
    "nn.ACOPF": "fo.nn.ACOPF('case9')",
    "nn.ACOPF, PGLib": "fo.nn.ACOPF('pglib_opf_case14_ieee')",
    "nn.TotalVariation, sparse": "fo.nn.TotalVariation()(c[None], 0.1 * one, Q.to_sparse_coo())",
    "qpth": "fo.operators.quadratic_program(Q, c, -Q, c, method='qpth')",
    "cvxpy": "importlib.import_module('foldopt.cvxpy')",
    "plots": "fo.diagnose.plot_spectrum(lambda x, c: x / 2 + c, 2 * c[None], c[None])",
    "the command": "cli.main()",
}
BARE = """
import importlib, json, runpy, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))  # None: it cannot be imported

import torch
import foldopt as fo
from foldopt import cli, solvers

c = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
x = fo.fold(lambda x, c: (x + c / x) / 2, c.detach().sqrt(), c, batch_dims=0)
x.sum().backward()
torch.testing.assert_close(c.grad, 0.5 / c.detach().sqrt())
fo.nn.SmoothTopK(1, 0.1)(c[None])[0, 0].backward()

c, Q, one = c.detach(), torch.eye(3, dtype=torch.float64), torch.ones((), dtype=torch.float64)
said = {}
for name, code in json.loads(sys.argv[2]).items():
    try:
        eval(code)
        said[name] = ""
    except (ImportError, SystemExit) as error:
        said[name] = str(error)
sys.argv = ["foldopt"]
runpy.run_module("foldopt", run_name="__main__")
sys.stdout.write(json.dumps(said))
"""


def test_the_wheel_alone_folds_and_says_what_is_missing(
    built: Built, tmp_path: pathlib.Path
) -> None:
    zipfile.ZipFile(built.wheel).extractall(tmp_path)
    optional = {_normal(name) for name in (*_versions.optional_packages(), "qpth")}
    modules = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if optional & {_normal(owner) for owner in owners}
    ]
    assert {"scipy", "rich"} <= set(modules)
    modules += ["qpth", "cvxpy"]
    done = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps(modules), json.dumps(ASKED)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *report, last = done.stdout.splitlines()
    assert report[0].split() == ["foldopt", foldopt.__version__]
    for name, message in json.loads(last).items():
        assert "pip install" in message, f"{name}: {message!r}"
        assert "No module named" not in message.split(" (")[0], f"{name}: {message!r}"
        named = re.findall(r"fold-opt\[([\w,]+)\]", message)
        assert set(",".join(named).split(",")) <= EXTRAS | {""}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
