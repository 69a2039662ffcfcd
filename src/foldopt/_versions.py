"""What a bug report needs to know of an installation: versions, and what is missing.

Packages are looked up in the metadata of what is installed and not imported, so that one that is
broken can be listed too. The text is plain ASCII: any terminal shows it, and it can be pasted.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

import numpy as np
import torch

import foldopt
from foldopt.solvers import available

__all__ = ["optional_packages", "report"]

_DISTRIBUTION = "fold-opt"
# The light ones first: a package that several extras bring is said to be had by the first. Those
# for work on the library itself (dev, docs, all) are no part of a report.
_EXTRAS = ("solvers", "gurobi", "cvxpy", "pyepo", "distributed", "grids", "experiments")


def report() -> str:
    """Describe the installation, a line for each part.

    Returns
    -------
    str
        The versions of this library, of Python, torch and numpy, then the version of each optional
        package, or the command that installs it.

    Examples
    --------
    >>> print(report())
    foldopt ...
    Python ...
    torch ...
    """
    rows = [
        ("foldopt", _own_version()),
        ("Python", f"{platform.python_version()}, {platform.platform()}"),
        ("torch", _torch()),
        ("numpy", np.__version__),
    ]
    for package, command in optional_packages().items():
        rows.append((package, _version(package) or f"not installed: {command}"))
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:{width}}  {text}\n" for name, text in rows)


def optional_packages() -> dict[str, str]:
    """Name every package that an extra brings or an engine needs, and how to install it.

    Returns
    -------
    dict of str to str
        The command by the name of the package: first what the extras of ``pyproject.toml`` bring,
        extra by extra, then engines that no extra brings.

    Examples
    --------
    >>> optional_packages()["gurobipy"]
    'pip install "fold-opt[gurobi]"'
    """
    found: dict[str, str] = {}
    for extra in _EXTRAS:
        for requirement in _requirements():  # such as  casadi>=3.6; extra == 'solvers'
            name = re.match(r"[\w.-]+", requirement)
            if name and name[0] != _DISTRIBUTION and re.search(f"extra == .{extra}.", requirement):
                found.setdefault(name[0], f'pip install "{_DISTRIBUTION}[{extra}]"')
    for engine in available():
        if engine.install:
            found.setdefault(engine.install.removeprefix("pip install "), engine.install)
    return found


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _own_version() -> str:
    """The version, and whether pip knows it: in a checkout that was updated it may not."""
    installed = _version(_DISTRIBUTION)
    if installed == foldopt.__version__:
        return foldopt.__version__
    known = "not installed" if installed is None else f"installed as {installed}"
    return f"{foldopt.__version__} ({known}, imported from {foldopt.__path__[0]})"


def _torch() -> str:
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    parts = [
        torch.__version__,
        f"BLAS {blas[1] if blas else 'unknown'}",
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores",
        f"CUDA {torch.version.cuda or 'not built in'}",
        f"GPU {', '.join(devices) or 'none'}",
    ]
    return ", ".join(parts)
