"""What a user passes stays data: nothing in ``src`` runs text, opens a shell, or uses the network.

One half reads the sources; what it is allowed to find is listed, with the reason. The other half
runs the library with Python's audit hook, which is told of every socket, shell and file.
"""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

import foldopt as fo

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "foldopt").rglob("*.py"))

# Builtins that run text.
RUN = {"eval", "exec", "compile", "__import__"}
# Modules of which nothing is used, but for what ALLOWED says: shells, processes, pickles, networks.
MODULES = {
    "aiohttp", "cloudpickle", "ctypes", "dill", "fsspec", "ftplib", "http", "httpx", "imaplib",
    "joblib", "marshal", "pickle", "pty", "requests", "runpy", "shelve", "smtplib", "socket",
    "socketserver", "ssl", "subprocess", "telnetlib", "urllib", "urllib3", "webbrowser", "xmlrpc",
}  # fmt: skip
# Attributes that are called, whatever of.
CALLED = {
    "popen", "urlopen", "urlretrieve", "extractall", "load_state_dict_from_url",
    "execv", "execve", "execvp", "spawnl", "spawnv", "posix_spawn", "startfile",
}  # fmt: skip
NAMED = {("system", "os"), ("hub", "torch")}

ALLOWED = {
    ("solvers/_run/executors.py", "import pickle"): "functions, to workers that we started",
    ("solvers/_run/executors.py", "import cloudpickle"): "the same, closures too",
    ("solvers/_run/executors.py", "pickle.loads"): "runs in such a worker, on what `pack` made",
    ("experiments/multilabel/archives.py", "import pickle"): "for an unpickler that admits arrays",
    ("_threads.py", "import ctypes"): "two functions of the OpenMP that PyTorch has loaded",
    ("cli.py", "import_module"): "of the packages that a study's own source names",
    ("experiments/frame/study.py", "import_module"): "of the studies found in this package",
    ("experiments/multilabel/cvxpy_layer.py", "import_module"): "of one of three packages there",
    ("nn/_acopf/engine.py", "import_module"): "of our own module for an engine in a table",
    ("nn/_acopf/read.py", "import_module"): "of one of three packages named in that file",
    ("solvers/_ipopt/run.py", "import_module"): "of our own module for an engine in a table",
    ("solvers/_scipy.py", "import_module"): "of the parts of SciPy that our sources name",
}


def findings(source: str) -> Iterator[str]:
    """What a source does that needs a reason."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in MODULES or alias.name == "torch.hub":
                    yield f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] in MODULES:
                yield f"import {node.module}"
        elif isinstance(node, ast.Attribute) and (node.attr, named(node)) in NAMED:
            yield f"{named(node)}.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from of_call(node)


def of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    last = name.split(".")[-1]
    options = {word.arg: word.value for word in call.keywords}
    if name in RUN or name == "builtins.eval":
        yield name
    if isinstance(call.func, ast.Attribute):
        if last in CALLED or last.startswith(("fetch_", "download")):
            yield name
        if name in ("pickle.loads", "pickle.load", "cloudpickle.loads", "cloudpickle.load"):
            yield name
    if name == "torch.load" and not is_constant(options.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if last == "load" and "allow_pickle" in options and name != "torch.load":
        yield "allow_pickle"
    if "shell" in options and not is_constant(options["shell"], False):
        yield "shell="
    constant = bool(call.args) and isinstance(call.args[0], ast.Constant)
    if last == "import_module" and not constant:
        yield "import_module"


def named(node: ast.Attribute) -> str:
    """The plain name of which this is an attribute, or ""."""
    return node.value.id if isinstance(node.value, ast.Name) else ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def place(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "src" / "foldopt").as_posix()


# -- the sources ----------------------------------------------------------------------------------


def test_the_sources_run_no_text_and_use_no_shell_pickle_or_network() -> None:
    assert len(SOURCES) > 200
    seen = {(place(path), what) for path in SOURCES for what in findings(path.read_text("utf-8"))}
    assert seen - set(ALLOWED) == set(), "give a reason in ALLOWED, or do without"
    assert set(ALLOWED) - seen == set(), "allowed, and no longer there"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("eval(text)", "eval"),
        ("exec(compile(text, '', 'exec'))", "compile"),
        ("from os import path\nimport os\nos.system(command)", "os.system"),
        ("import subprocess", "import subprocess"),
        ("from subprocess import run\nrun(command, shell=True)", "shell="),
        ("def f():\n    import urllib.request", "import urllib.request"),
        ("from urllib import request", "import urllib"),
        ("import pickle", "import pickle"),
        ("pickle.loads(raw)", "pickle.loads"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("torch.hub.load(name)", "torch.hub"),
        ("datasets.fetch_openml('x')", "datasets.fetch_openml"),
        ("importlib.import_module(name)", "import_module"),
        ("archive.extractall(folder)", "archive.extractall"),
    ],
)
def test_the_checker_sees(source: str, wanted: str) -> None:
    assert wanted in set(findings(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "torch.compile(step)",
        "re.compile(text)",
        "model.eval()",
        "np.load(path)",
        "importlib.import_module('clarabel')",
        "from foldopt.solvers import QP",
    ],
)
def test_the_checker_leaves_alone(source: str) -> None:
    assert not set(findings(source))


# -- what runs ------------------------------------------------------------------------------------

WATCH = """
import sys
forbidden = ("socket.", "os.system", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.")
def watch(event, args):
    if event.startswith(forbidden):
        raise PermissionError(f"{event} {args}")
sys.addaudithook(watch)
"""


def alone(code: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, where no socket can be made and no shell opened."""
    return subprocess.run(
        [sys.executable, "-c", WATCH + textwrap.dedent(code)], cwd=cwd, capture_output=True,
        text=True, timeout=200, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_importing_and_folding_need_no_network(tmp_path: pathlib.Path) -> None:
    done = alone(
        """
        import torch
        import foldopt as fo
        c = torch.tensor([[4.0]], requires_grad=True)
        x = fo.fold(lambda x, c: 0.5 * (x + c / x), torch.tensor([[2.0]]), c)
        x.sum().backward()
        assert abs(float(c.grad) - 0.25) < 1e-6
        p = torch.tensor([[-1.0, -3.0]], requires_grad=True)
        fo.nn.QP()(torch.eye(2), p, upper=2.0).sum().backward()
        fo.nn.SmoothTopK(1)(torch.zeros(1, 3))
        fo.nn.TotalVariation()(torch.zeros(5), 0.1)
        print("done")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
    assert list(tmp_path.iterdir()) == []


def test_the_watch_would_have_seen(tmp_path: pathlib.Path) -> None:
    done = alone("import socket; socket.create_connection(('127.0.0.1', 9))", tmp_path)
    assert done.returncode != 0
    assert "PermissionError" in done.stderr
    assert "os.system" in alone("import os; os.system('true')", tmp_path).stderr


def test_a_name_is_never_a_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of engines and grids are looked up in tables, and not imported."""
    (tmp_path / "hostile.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "hostile_engine.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="engine"):
        fo.solvers.QP(engine="hostile")
    with pytest.raises(ValueError, match="engine"):
        fo.solvers.Ipopt(lambda x: x @ x, n=1, engine="hostile")
    with pytest.raises(ValueError, match="engine"):
        fo.solvers.Conic(fo.solvers.Cones(nonnegative=1), engine="hostile")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="engine"):
        fo.solvers.GlobalQP(engine="hostile")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no grid"):
        fo.nn.read_grid("hostile")
    with pytest.raises(ValueError, match="no grid"):
        fo.nn.read_grid("__import__('hostile')")
    assert not {"hostile", "hostile_engine"} & set(sys.modules)
