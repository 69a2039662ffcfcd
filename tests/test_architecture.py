"""Imports run downward: every module of foldopt stands on a floor, and knows only those below.

The checker reads sources and imports nothing, so that an import hidden in a function or under
``TYPE_CHECKING`` counts like any other. That it sees what it should is tested on small made-up
packages.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "foldopt"
LONGEST = 300

# A new module or subpackage needs a place here, and in the table of CONTRIBUTING.md.
FLOORS: dict[int, tuple[str, ...]] = {
    0: ("status", "step", "_tree", "_calculus", "_functions", "_lu", "_threads"),
    1: ("jacobian", "_operator", "_gradient", "_program", "prox", "projections"),
    2: ("linear",),
    3: (
        "certify",
        "_arguments",
        "_problem",
        "_call",
        "fold",
        "layer",
        "unroll",
        "anderson",
        "sensitivity",
    ),
    4: ("operators", "steps", "solvers", "diagnose"),
    5: ("nn", "cvxpy"),
    6: ("learning",),
    7: ("experiments", "cli", "_versions", "__main__"),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# What may not be imported although its floor would allow it.
FORBIDDEN = {("solvers", "steps")}


@dataclasses.dataclass(frozen=True)
class Module:
    name: str  # "foldopt.linear.cg"
    is_package: bool
    source: str

    @property
    def room(self) -> str:
        """The part that has a floor: "linear"; "" for the top package."""
        return room_of(self.name)

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.name)


def room_of(name: str) -> str:
    return ".".join(name.split(".")[1:2])


def read(root: pathlib.Path) -> dict[str, Module]:
    """Every module of the package in ``root``, by name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, is_package, path.read_text(encoding="utf-8"))
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[tuple[int, str]]:
    """The modules of the package that a module imports, wherever in it, with the line.

    ``from package import name`` means the module ``package.name`` where there is one, and the
    package itself otherwise.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            if base.split(".")[0] == PACKAGE:
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield node.lineno, inner if inner in known else base
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                name = str(first.value)
                if name.split(".")[0] == PACKAGE:
                    yield node.lineno, name


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The full name of what stands between ``from`` and ``import``."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def complaints(root: pathlib.Path) -> list[str]:
    """What is wrong with the architecture of the package in ``root``."""
    known = read(root)
    found = []
    graph: dict[str, set[str]] = {}
    for name, module in known.items():
        if name != PACKAGE and module.room not in FLOOR:
            found.append(f"{name} has no floor: place it in tests/test_architecture.py")
        lines = module.source.count("\n")
        if lines > LONGEST:
            found.append(f"{name} has {lines} lines, more than {LONGEST}: split it")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
                found.append(f"{name}:{node.lineno} calls print")
        graph[name] = set()
        for line, target in imports(module, known):
            graph[name].add(target)
            if target not in known:
                found.append(f"{name}:{line} imports {target}, which does not exist")
            elif problem := import_problem(module.room, room_of(target)):
                found.append(f"{name}:{line} imports {target}: {problem}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"an import cycle: {' <- '.join(error.args[1])}")
    return found


def import_problem(importer: str, imported: str) -> str | None:
    """Why one room may not import another; None where it may."""
    top = max(FLOOR.values())
    here = FLOOR.get(importer)
    if importer == "" or here is None or (imported and imported not in FLOOR):
        return None  # the top package may import anything; what has no floor is complained of
    if imported == "":
        # The highest floor uses the library as a user does.
        return None if here == top else "the top package stands above"
    if FLOOR[imported] > here:
        return f"floor {FLOOR[imported]} stands above floor {here}"
    if (importer, imported) in FORBIDDEN:
        return f"{importer} never imports {imported}"
    return None


def test_imports_run_downward() -> None:
    root = ROOT / "src" / PACKAGE
    assert len(read(root)) > 20
    assert complaints(root) == []


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples", "docs/hooks"])
def test_files_are_short(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_contributing_shows_the_same_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, re.M)
    assert {int(floor): tuple(re.findall(r"`(\w+)`", names)) for floor, names in rows} == FLOORS


SOUND = {
    "__init__.py": "from foldopt import fold\nfrom foldopt.linear import CG\n",
    "status.py": "",
    "prox.py": "import foldopt.status\n",
    "linear/__init__.py": "from foldopt.linear.cg import CG\n",
    "linear/_common.py": "import torch\nfrom .. import status\n",
    "linear/cg.py": "from ._common import norm\nfrom foldopt import prox\n",
    "fold.py": "from foldopt.linear import CG\nfrom foldopt import status as s, prox\n",
    "steps/__init__.py": "from foldopt.fold import fold\n",
    "solvers/__init__.py": "from . import qp\n",
    "solvers/qp.py": "def solve():\n    import qpsolvers\n",
    "cli.py": "import foldopt as fo\nconsole.print('text')\n'print(1)'\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"prox.py": "from foldopt.fold import x"}, "prox:1 imports foldopt.fold: floor 3"),
        ({"prox.py": "import foldopt.fold"}, "prox:1 imports foldopt.fold: floor 3"),
        ({"prox.py": "import torch, foldopt.fold as f"}, "prox:1 imports foldopt.fold"),
        ({"prox.py": "from foldopt import fold"}, "prox:1 imports foldopt.fold"),
        ({"prox.py": "from . import fold"}, "prox:1 imports foldopt.fold"),
        ({"prox.py": "from .fold import x"}, "prox:1 imports foldopt.fold"),
        ({"linear/cg.py": "from ..fold import x"}, "cg:1 imports foldopt.fold"),
        ({"linear/__init__.py": "from ..fold import x"}, "linear:1 imports foldopt.fold"),
        ({"prox.py": "def f():\n    from foldopt.fold import x"}, "prox:2 imports foldopt.fold"),
        ({"prox.py": "if TYPE_CHECKING:\n    from foldopt import fold"}, "prox:2 imports"),
        ({"prox.py": "importlib.import_module('foldopt.fold')"}, "prox:1 imports foldopt.fold"),
        ({"prox.py": "__import__('foldopt.fold')"}, "prox:1 imports foldopt.fold"),
        ({"fold.py": "import foldopt"}, "fold:1 imports foldopt: the top package"),
        ({"fold.py": "from foldopt import CG"}, "fold:1 imports foldopt: the top package"),
        ({"status.py": "from foldopt import linear"}, "floor 2 stands above floor 0"),
        ({"solvers/qp.py": "from foldopt.steps import x"}, "solvers never imports steps"),
        ({"solvers/qp.py": "from foldopt import steps"}, "solvers never imports steps"),
        ({"helpers.py": ""}, "foldopt.helpers has no floor"),
        ({"helpers/__init__.py": "", "helpers/a.py": ""}, "foldopt.helpers.a has no floor"),
        ({"fold.py": "from foldopt.folded import x"}, "foldopt.folded, which does not exist"),
        ({"fold.py": "from foldopt import layer", "layer.py": "import foldopt.fold"}, "cycle"),
        ({"linear/_common.py": "from foldopt.linear import CG"}, "an import cycle"),
        ({"__init__.py": "from foldopt import cli"}, "an import cycle"),
        ({"fold.py": "x = 1\n" * 301}, "foldopt.fold has 301 lines"),
        ({"fold.py": "def f():\n    print('x')"}, "foldopt.fold:2 calls print"),
    ],
)
def test_the_checker_finds(tmp_path: pathlib.Path, files: dict[str, str], expected: str) -> None:
    found = complaints(plant(tmp_path, SOUND | files))
    assert any(expected in complaint for complaint in found), found


def test_the_checker_accepts_what_is_sound(tmp_path: pathlib.Path) -> None:
    assert complaints(plant(tmp_path, SOUND)) == []
    assert complaints(plant(tmp_path, SOUND | {"fold.py": "x = 1\n" * 300})) == []


def plant(tmp_path: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    root = tmp_path / PACKAGE
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root
