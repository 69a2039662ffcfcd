"""What solvers.QP says to arguments that do not fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from foldopt.solvers._qp import choose as rule
from foldopt.solvers._qp import table
from foldopt.solvers._qp.choose import Traits, choose
from foldopt.solvers._qp.program import Limits
from foldopt.solvers._qp.table import ENGINES
from foldopt.solvers.qp import QP
from foldopt.status import Status
from tests.engines import ALL, random_blocks, tensors

EYE = torch.eye(2)


def blocks(**changes: Any) -> dict[str, Any]:
    given = {"Q": EYE, "p": torch.zeros(2), "G": torch.ones(3, 2), "h": torch.ones(3)}
    return given | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"p": torch.zeros(())}, r"p must have shape \(n,\) or \(B, n\).*got shape \(\)"),
        ({"p": torch.zeros(3, 0)}, r"p must have shape .* n of 1 or more, got shape \(3, 0\)"),
        ({"p": None}, "p must have shape .* got None"),
        ({"Q": torch.eye(3)}, r"Q must have shape \(2, 2\) or \(B, 2, 2\) .*got \(3, 3\)"),
        ({"G": torch.ones(4, 2)}, r"G must have shape \(3, 2\) or \(B, 3, 2\)"),
        ({"h": torch.ones(())}, r"h must be a vector or \(B, rows\), got shape \(\)"),
        ({"h": None}, "G and h go together, one of them is None"),
        ({"b": torch.ones(1)}, "A and b go together"),
        ({"lower": torch.ones(3)}, r"lower must have shape \(2,\) or \(B, 2\) beside p"),
        ({"upper": torch.ones(1, 1, 2)}, r"upper must have shape \(2,\)"),
        ({"lower": -(10**400)}, "lower is an integer too large for a float"),
        (
            {"p": torch.zeros(4, 2), "h": torch.ones(5, 3)},
            "the batch sizes differ: p has 4, h has 5. A block that all samples share",
        ),
        ({"h": sparse.eye(3)}, "h is sparse; only Q, G and A may be"),
        ({"h": torch.ones(3).to_sparse()}, "h is sparse, of shape .3,.; only Q, G and A"),
        ({"G": torch.ones(2, 3, 2).to_sparse()}, "all samples share a sparse matrix"),
    ],
)
def test_shapes(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        QP()(**blocks(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Q": EYE.long()}, "Q must hold floating-point numbers, got torch.int64"),
        ({"h": "abc"}, "h must be a tensor, a numpy array, a sparse matrix or None, got str"),
        ({"h": 1.0}, "h must be a tensor.*got float"),
        ({"lower": True}, "lower must be a tensor.*got bool"),
        ({"h": torch.ones(3).double()}, "h is torch.float64 on cpu, Q is torch.float32 on cpu"),
    ],
)
def test_kinds(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        QP()(**blocks(**changes))


@pytest.mark.parametrize("name", ["Q", "p", "G", "h", "A", "b", "lower", "upper"])
@pytest.mark.parametrize("engine", ["auto", *ALL])
def test_nan_is_named_before_any_engine_runs(engine: str, name: str) -> None:
    given = tensors(random_blocks(3, 2, 1, seed=0))
    given[name] = given[name].clone()
    given[name].view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=f"^{name} holds NaN at .*no engine was run"):
        QP(engine)(**given)


@pytest.mark.parametrize("name", ["Q", "p", "G", "A", "b"])
def test_infinity_only_where_it_has_a_meaning(name: str) -> None:
    given = tensors(random_blocks(3, 2, 1, seed=0))
    given[name].view(-1)[0] = torch.inf
    with pytest.raises(ValueError, match=rf"^{name} holds \+inf"):
        QP()(**given)


def test_nan_in_a_sparse_matrix() -> None:
    G = sparse.csr_matrix(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"^G holds NaN"):
        QP()(EYE, torch.zeros(2), G, torch.ones(1))


@pytest.mark.parametrize("engine", ["auto", "osqp", "moreau"])
def test_a_nonconvex_sample_is_named(engine: str) -> None:
    Q = torch.stack([EYE, EYE, torch.diag(torch.tensor([1.0, -0.1])), EYE])
    with pytest.raises(ValueError, match=r"Q of sample 2 is not positive.*GlobalQP.*nn\.f_sqp"):
        QP(engine)(Q, torch.zeros(2))
    with pytest.raises(ValueError, match=r"solvers\.QP: Q is not positive semidefinite"):
        QP(engine)(-EYE, torch.zeros(4, 2))


@pytest.mark.parametrize(
    "Q",
    [
        np.diag([1.0, -1e-3]),
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        -np.eye(2),
        np.diag([1.0, 0.0]),
        np.array([[1.0, 1.0], [1.0, 1.0]]),
        np.eye(2),
        np.zeros((2, 2)),
    ],
)
def test_sparse_and_dense_agree_on_convexity(Q: np.ndarray) -> None:
    convex = np.linalg.eigvalsh(Q).min() >= 0
    for form in (Q, sparse.csc_matrix(Q)):
        if convex:
            assert int(QP()(form, np.zeros(2)).status) == Status.CONVERGED
            continue
        with pytest.raises(ValueError, match="not positive semidefinite"):
            QP()(form, np.zeros(2))


def test_rounding_does_not_make_a_semidefinite_matrix_nonconvex() -> None:
    for seed in range(20):
        L = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        solution = QP()(L @ L.T, L @ torch.ones(3), lower=-1.0, upper=1.0)
        assert int(solution.status) == Status.CONVERGED


def test_unknown_engine() -> None:
    with pytest.raises(ValueError, match=r"engine must be one of 'auto', 'piqp',.* got 'gurobbi'"):
        QP("gurobbi")


@pytest.mark.parametrize(
    ("engine", "setting", "lacks"),
    [
        ("piqp", {"time_limit": 1.0}, "no time_limit"),
        ("proxqp", {"time_limit": 1.0}, "no time_limit"),
        ("daqp", {"rtol": 1e-6}, "no rtol"),
        ("highs", {"rtol": 1e-6}, "no rtol"),
        ("scs", {"threads": 2}, "no threads"),
        ("piqp", {"threads": 2, "time_limit": 1.0}, "no time_limit and no threads"),
    ],
)
def test_a_setting_that_an_engine_lacks(engine: str, setting: dict[str, Any], lacks: str) -> None:
    with pytest.raises(ValueError, match=f"engine '{engine}' has no.*it has atol"):
        QP(engine, **setting)
    with pytest.raises(ValueError, match=lacks):
        QP(engine, **setting)
    assert QP(engine, threads=1).engine == engine


@pytest.mark.parametrize("engine", ["clarabel", "highs"])
def test_two_threads(engine: str) -> None:
    # HiGHS has one scheduler for the process, which may have begun with another number.
    solution = QP(engine, threads=2)(**tensors(random_blocks(4, 3, 1, seed=0)))
    assert int(solution.status) in (Status.CONVERGED, Status.FAILED)
    if int(solution.status) == Status.FAILED:
        assert engine == "highs"


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        gone = dataclasses.replace(ENGINES[name], package="no_such_package_1")
        monkeypatch.setitem(ENGINES, name, gone)


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "proxqp")
    with pytest.raises(
        ImportError, match=r"engine 'proxqp' needs the package no_such.*: pip install proxsuite"
    ):
        QP("proxqp")(EYE, torch.zeros(2))


TRAITS = Traits(n=10, rows=10, density=1.0, convexity="strong")


def test_auto_falls_to_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    order = choose(TRAITS, Limits())
    assert len(order) > 2
    without(monkeypatch, order[0])
    assert choose(TRAITS, Limits()) == order[1:]
    blocks = tensors(random_blocks(4, 3, 1, seed=0))
    assert int(QP()(**blocks).status) == Status.CONVERGED
    without(monkeypatch, *ALL)
    with pytest.raises(ImportError, match="'auto' needs one of its engines: pip install"):
        QP()(**blocks)


@pytest.mark.parametrize("convexity", ["linear", "semidefinite", "strong"])
@pytest.mark.parametrize("density", [0.01, 1.0])
def test_auto_takes_engines_with_the_settings_that_are_set(convexity: Any, density: float) -> None:
    for n in (5, 100, 3000):
        traits = Traits(n, n, density, convexity)
        for limits in (Limits(time_limit=1.0), Limits(rtol=1e-6), Limits(threads=2)):
            chosen = choose(traits, limits)
            assert chosen
            assert not any(ENGINES[name].lacks(limits) for name in chosen)


def test_auto_says_when_no_engine_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "_order", lambda traits: ("piqp",))
    with pytest.raises(ValueError, match=r"no engine that is installed has every setting.*piqp"):
        choose(TRAITS, Limits(time_limit=1.0))


def test_the_table() -> None:
    assert tuple(ENGINES) == ALL
    assert table.ENGINES is ENGINES
    for name, engine in ENGINES.items():
        assert engine.name == name
        assert engine.installed
        assert engine.dense or engine.sparse
        assert engine.settings <= {field.name for field in dataclasses.fields(Limits)}
        assert engine.licence
