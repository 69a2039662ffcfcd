"""solvers.QP on batches: one by one, with failures in between, warm, folded, pickled."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

import foldopt as fo
from foldopt import solvers
from foldopt.solvers._qp import diagnose, one
from foldopt.solvers._qp.program import Answer, Limits, Point
from foldopt.solvers._qp.table import ENGINES
from foldopt.solvers.qp import QP
from foldopt.status import Status
from tests.engines import ALL, NAMES, kkt, random_blocks, tensors

EVERY = ("auto", *ALL)
SAMPLES = 4


def batch_of(n: int = 6, m: int = 8, k: int = 2, **options: Any) -> dict[str, torch.Tensor]:
    each = [tensors(random_blocks(n, m, k, seed=seed, **options)) for seed in range(SAMPLES)]
    return {name: torch.stack([blocks[name] for blocks in each]) for name in NAMES}


def one_of(blocks: dict[str, Any], i: int, shared: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: block if name in shared else block[i] for name, block in blocks.items()}


@pytest.mark.parametrize("engine", EVERY)
def test_a_batch_is_its_samples_one_by_one(engine: str) -> None:
    blocks = batch_of()
    solution = QP(engine)(**blocks)
    assert solution.x.shape == (SAMPLES, 6)
    assert solution.status.tolist() == [Status.CONVERGED] * SAMPLES
    for i in range(SAMPLES):
        alone = QP(engine)(**one_of(blocks, i))
        assert alone.x.shape == (6,)
        assert alone.status.shape == ()
        torch.testing.assert_close(solution.x[i], alone.x, rtol=1e-8, atol=1e-8)
        for part, other in zip(solution.multipliers, alone.multipliers, strict=True):
            torch.testing.assert_close(part[i], other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", EVERY)
def test_shared_blocks_and_an_infeasible_sample_among_good_ones(engine: str) -> None:
    blocks = batch_of() | {"Q": torch.eye(6, dtype=torch.float64), "p": torch.ones(6).double()}
    blocks["lower"][1, 3] = blocks["upper"][1, 3] = 0.5 * (
        blocks["lower"][1, 3] + blocks["upper"][1, 3]
    )
    blocks["b"][1] = blocks["A"][1] @ blocks["upper"][1].nan_to_num()  # may or may not be feasible
    blocks["h"][2] = blocks["G"][2] @ blocks["lower"][2] - 100
    blocks["h"][0, 0] = torch.inf
    blocks["lower"][3, 0] = blocks["upper"][3, 0] + 1
    solution = QP(engine)(**blocks)
    assert solution.status[0] == Status.CONVERGED
    assert solution.status[2] == Status.INFEASIBLE
    assert solution.status[3] == Status.INFEASIBLE
    assert "lower > upper at variable 0" in solution.messages[3]
    assert torch.isnan(solution.x[2:]).all()
    assert kkt(one_of(blocks, 0, ("Q", "p")) | {"h": blocks["h"][0]}, at(solution, 0)) < 1e-6
    again = QP(engine)(**one_of(blocks, 1, ("Q", "p")))
    assert solution.status[1] == again.status


def at(solution: fo.Solution, i: int) -> fo.Solution:
    parts = solvers.Multipliers(*(part[i] for part in solution.multipliers))
    return fo.Solution(solution.x[i], solution.status[i], parts)


@pytest.mark.parametrize("engine", EVERY)
def test_a_sparse_matrix_is_shared_by_a_batch(engine: str) -> None:
    blocks = batch_of()
    shared = {name: blocks[name][0] for name in ("Q", "G", "A")}
    b = blocks["b"][:1].expand(SAMPLES, -1)
    others = {"p": blocks["p"], "h": blocks["h"][0], "b": b}
    dense = QP(engine)(**shared, **others)
    thin = {name: sparse.csr_matrix(block.numpy()) for name, block in shared.items()}
    found = QP(engine)(**thin, **others)
    assert found.status.tolist() == [Status.CONVERGED] * SAMPLES
    torch.testing.assert_close(found.x, dense.x, rtol=1e-7, atol=1e-7)


def test_numpy_in_float64_tensors_out() -> None:
    blocks = random_blocks(4, 3, 1, seed=0)
    solution = QP()(**blocks)
    assert isinstance(solution.x, torch.Tensor)
    assert solution.x.dtype == torch.float64
    assert kkt(blocks, solution) < 1e-7


def test_an_empty_batch() -> None:
    solution = QP()(torch.eye(3), torch.zeros(0, 3), torch.ones(2, 3), torch.ones(2))
    assert solution.x.shape == (0, 3)
    assert solution.multipliers.inequality.shape == (0, 2)


@pytest.mark.parametrize("engine", [name for name in ALL if ENGINES[name].warm_start])
def test_warm_starts_are_used(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    original = ENGINES[engine].solve

    def spy(program: Any, limits: Limits, start: Any) -> Answer:
        starts.append(start)
        return original(program, limits, start)

    replaced = __import__("dataclasses").replace(ENGINES[engine], solve=spy)
    monkeypatch.setitem(ENGINES, engine, replaced)
    store = solvers.WarmStart()
    blocks = batch_of()
    blocks["lower"][:, 0] = blocks["upper"][:, 0] = 0.5 * (blocks["lower"] + blocks["upper"])[:, 0]
    blocks["A"], blocks["b"] = blocks["A"][:, :0], blocks["b"][:, :0]
    solve = QP(engine, warm_start=store, executor="serial")
    with store.at(range(SAMPLES)):
        cold = solve(**blocks)
        assert cold.status.tolist() == [Status.CONVERGED] * SAMPLES
        assert starts == [None] * SAMPLES
        starts.clear()
        warm = solve(**blocks)
    torch.testing.assert_close(warm.x, cold.x, rtol=1e-7, atol=1e-7)
    for i, start in enumerate(starts):  # without the fixed variable
        assert start.x.tolist() == pytest.approx(cold.x[i, 1:].tolist())
        assert start.bounds.shape == (5,)


@pytest.mark.parametrize("engine", ["osqp", "scs", "proxqp"])
def test_a_warm_start_saves_iterations(engine: str) -> None:
    blocks = tensors(random_blocks(30, 30, 3, seed=3))
    exact = QP("daqp")(**blocks)
    start = exact._replace(
        x=exact.x.numpy(),
        multipliers=solvers.Multipliers(*(part.numpy() for part in exact.multipliers)),
    )
    arrays = [blocks[name].numpy() for name in NAMES]
    few = Limits(max_iterations=30 if engine != "proxqp" else 1)
    tried = [
        ENGINES[engine].solve(one.as_program(*arrays), few, near)
        for near in (None, one.point_of(start))
    ]
    assert [answer.status for answer in tried] == [Status.MAX_ITERATIONS, Status.CONVERGED]


def test_moreau_takes_a_batch_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from foldopt.solvers._qp import batch

    calls = []

    def spy(programs: Any, *rest: Any) -> Any:
        calls.append(len(programs))
        return original(programs, *rest)

    original = batch.moreau_batch
    monkeypatch.setattr(batch, "moreau_batch", spy)
    blocks = batch_of()
    QP("moreau")(**blocks)
    assert calls == [SAMPLES]
    calls.clear()
    blocks["h"][2, 5] = torch.inf  # another structure
    assert QP("moreau")(**blocks).status.tolist() == [Status.CONVERGED] * SAMPLES
    assert sorted(calls) == [1, SAMPLES - 1]


def test_auto_asks_the_next_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(program: Any, limits: Limits, start: Any) -> Answer:
        raise RuntimeError("factorization failed")

    def wrong(program: Any, limits: Limits, start: Any) -> Answer:
        n = len(program.p)
        zeros = Point(np.zeros(n), np.zeros(len(program.h)), np.zeros(len(program.b)), np.zeros(n))
        return Answer(Status.CONVERGED, zeros, "all is well")

    blocks = random_blocks(6, 5, 0, seed=0)
    blocks["h"] -= 100 * np.arange(5) / 4  # 0 is not feasible, and no polishing makes it so
    blocks["lower"], blocks["upper"] = None, None
    wanted = QP("daqp")(**tensors(blocks))
    assert int(wanted.status) == Status.CONVERGED
    replace = __import__("dataclasses").replace
    monkeypatch.setitem(ENGINES, "daqp", replace(ENGINES["daqp"], solve=broken))
    monkeypatch.setitem(ENGINES, "piqp", replace(ENGINES["piqp"], solve=wrong))
    monkeypatch.setattr(one, "polish", lambda program, point: point)
    arrays = [blocks[name] for name in NAMES]
    solution = one.solve_one(*arrays, engines=("daqp", "piqp", "clarabel"), limits=Limits())
    assert solution.status == Status.CONVERGED
    np.testing.assert_allclose(solution.x, wanted.x, atol=1e-6)
    assert solution.messages == (
        "daqp: RuntimeError: factorization failed; then piqp: all is well; relative KKT residual "
        f"{_worst(solution.messages)}; then clarabel: solved"
    )
    # Alone, the first one's error rises, and the second one's answer is INACCURATE.
    with pytest.raises(RuntimeError, match="factorization failed"):
        one.solve_one(*arrays, engines=("daqp",), limits=Limits())
    lone = one.solve_one(*arrays, engines=("piqp",), limits=Limits())
    assert lone.status == Status.INACCURATE
    assert (lone.x == 0).all()


def _worst(message: str) -> str:
    return message.split("relative KKT residual ")[1].split(";")[0]


def test_false_claims_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    def claims(status: Status) -> Any:
        return lambda program, limits, start: Answer(status, None, "a proof")

    blocks = tensors(random_blocks(4, 3, 1, seed=0))
    replace = __import__("dataclasses").replace
    for status in (Status.INFEASIBLE, Status.UNBOUNDED):
        monkeypatch.setitem(ENGINES, "scs", replace(ENGINES["scs"], solve=claims(status)))
        solution = QP("scs")(**blocks)
        assert int(solution.status) == Status.FAILED
        assert "a proof, yet HiGHS finds a feasible point" in solution.messages[0]
    # Without HiGHS an engine is believed, and the message says so.
    monkeypatch.setattr(diagnose.importlib.util, "find_spec", lambda name: None)
    truth = diagnose.diagnose(one.as_program(*(blocks[n].numpy() for n in NAMES)), Limits())
    assert truth.proof is None
    assert not truth.refutes
    assert "highspy is not installed" in truth.said


@pytest.mark.parametrize("engine", EVERY)
def test_pickle(engine: str) -> None:
    solve = QP(engine, max_iterations=50)
    again = pickle.loads(pickle.dumps(solve))
    assert again == solve
    blocks = tensors(random_blocks(3, 2, 0, seed=1))
    torch.testing.assert_close(again(**blocks).x, solve(**blocks).x)


@pytest.mark.parametrize("engine", ["auto", "piqp", "osqp"])
def test_a_folded_layer_has_the_right_gradient(engine: str) -> None:
    generator = torch.Generator().manual_seed(0)
    R = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    Q = torch.eye(5, dtype=torch.float64) + R @ R.T / 5
    p = (2 * torch.randn(3, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    solve = QP(engine)

    def solver(p: torch.Tensor) -> fo.Solution:
        return solve(Q, p, lower=-0.5, upper=0.5)

    def step(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return fo.projections.box(x - 0.3 * (x @ Q + p), -0.5, 0.5)

    layer = fo.FoldedLayer(solver, step)
    x = layer(p)
    held = (x.abs() > 0.5 - 1e-9).sum()
    assert 0 < held < x.numel()
    (grad,) = torch.autograd.grad((weights * x).sum(), p)
    h = 1e-5
    for i in range(3):
        for j in range(5):
            ends = []
            for sign in (1, -1):
                moved = p.detach().clone()
                moved[i, j] += sign * h
                ends.append(float((weights * QP("daqp")(Q, moved, lower=-0.5, upper=0.5).x).sum()))
            assert float(grad[i, j]) == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-6)
