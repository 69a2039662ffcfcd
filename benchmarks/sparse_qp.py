"""A sparse quadratic program with its gradient: denoising a sequence by total variation.

    min ½‖x − d‖² + Σ tᵢ   s.t.   −tᵢ ≤ xᵢ₊₁ − xᵢ ≤ tᵢ,

2n − 1 variables and 2n − 2 inequalities, and the gradient of a random weighting of x with respect
to the signal d. Errors are relative, x against the exact x of foldopt.prox.total_variation, and the
gradient against the average of the weights over each piece of it. The rivals:

- dQP (C. Magoon et al., arXiv 2410.06324) with PIQP, at 1e-8, and a curvature of 1e-6 on t.
- PIQP + LU: PIQP's sparse solver called directly, at 1e-8, and what dQP does then: the rows whose
  slack is below 1e-5 are active, their KKT matrix is factored by SuperLU and solved with once. That
  is a bound from below on the time of dQP, whose package does more around it.
- Clarabel + LU: the same with Clarabel.
- moreau.torch.

Each runs in a process of its own, for its peak memory, twice a round; the least time counts. One
that has not done so after a minute at n = 1e5 (in proportion beyond) is given up.

    python benchmarks/sparse_qp.py [n] [rounds]
"""

from __future__ import annotations

import importlib
import importlib.util
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _timing import machine
from scipy import sparse
from scipy.sparse.linalg import splu

import foldopt as fo

PATIENCE = 60.0
MOST = {"moreau.torch": 30_000}  # at 1e5 it takes minutes
TOLERANCE, ACTIVE, CURVATURE = 1e-8, 1e-5, 1e-6


class Case(NamedTuple):
    Q: Any
    p: np.ndarray
    G: Any
    h: np.ndarray
    weights: np.ndarray  # of x in the loss
    n: int


class Run(NamedTuple):
    forward: float  # seconds
    backward: float
    x: np.ndarray
    gradient: np.ndarray  # with respect to d


def case(n: int, curvature: float) -> Case:
    """The program of peers_sparse_qp: a step every 100 places, and noise of size 1."""
    r, k = np.random.default_rng(0), n - 1
    steps = np.repeat(r.normal(0, 3, n // 100 + 1), 100)[:n]
    d, weights = steps + r.normal(size=n), r.normal(size=n)
    D = sparse.diags([-np.ones(k), np.ones(k)], [0, 1], shape=(k, n))  # type: ignore[arg-type]
    eye = sparse.eye(k)
    G = sparse.bmat([[D, -eye], [-D, -eye]], format="csr")
    Q: Any = sparse.diags(np.concatenate([np.ones(n), np.full(k, curvature)]), format="csr")
    Q.eliminate_zeros()
    return Case(Q, np.concatenate([-d, np.ones(k)]), G, np.zeros(2 * k), weights, n)


def tensor(M: Any) -> torch.Tensor:
    starts, columns, values = map(torch.from_numpy, (M.indptr, M.indices, M.data))
    return torch.sparse_csr_tensor(starts, columns, values, M.shape, check_invariants=False)


def ours(data: Case) -> Callable[[], Run]:
    Q, G, h = tensor(data.Q), tensor(data.G), torch.from_numpy(data.h)
    weights, layer = torch.from_numpy(data.weights), fo.nn.QP()

    def run() -> Run:
        p = torch.from_numpy(data.p).requires_grad_()
        begin = time.perf_counter()
        x = layer(Q, p, G, h)[: data.n]
        middle = time.perf_counter()
        (x * weights).sum().backward()
        end = time.perf_counter()
        assert p.grad is not None
        gradient = -p.grad[: data.n].numpy()
        return Run(middle - begin, end - middle, x.detach().numpy(), gradient)

    return run


def with_lu(solve: Callable[[Case], np.ndarray]) -> Callable[[Case], Callable[[], Run]]:
    def prepared(data: Case) -> Callable[[], Run]:
        def run() -> Run:
            begin = time.perf_counter()
            x = solve(data)
            middle = time.perf_counter()
            W = data.G[data.h - data.G @ x <= ACTIVE]
            K: Any = sparse.bmat([[data.Q, W.T], [W, None]], format="csc")
            right = np.zeros(K.shape[0])
            right[: data.n] = data.weights
            gradient = splu(K).solve(right)[: data.n]
            end = time.perf_counter()
            return Run(middle - begin, end - middle, x[: data.n], gradient)

        return run

    return prepared


def by_piqp(data: Case) -> np.ndarray:
    import piqp

    solver = piqp.SparseSolver()
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = TOLERANCE
    settings.eps_rel = settings.eps_duality_gap_rel = TOLERANCE
    solver.setup(data.Q.tocsc(), data.p, None, None, data.G.tocsc(), None, data.h, None, None)
    solver.solve()
    return np.array(solver.result.x)


def by_clarabel(data: Case) -> np.ndarray:
    clarabel: Any = importlib.import_module("clarabel")
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOLERANCE
    cones = [clarabel.NonnegativeConeT(len(data.h))]
    solver = clarabel.DefaultSolver(
        sparse.triu(data.Q, format="csc"), data.p, data.G.tocsc(), data.h, cones, settings
    )
    return np.array(solver.solve().x)


def by_dqp(data: Case) -> Callable[[], Run]:
    dqp: Any = importlib.import_module("dqp")
    settings = dqp.build_settings(
        solve_type="sparse", qp_solver="piqp", lin_solver="scipy SPLU",
        eps_abs=TOLERANCE, eps_rel=TOLERANCE,
    )  # fmt: skip
    layer = dqp.dQP_layer(settings=settings)
    Q, G = (dqp.csc_scipy_to_torch(part.tocsc()) for part in (data.Q, data.G))
    h, weights = torch.from_numpy(data.h), torch.from_numpy(data.weights)

    def run() -> Run:
        p = torch.from_numpy(data.p).requires_grad_()
        begin = time.perf_counter()
        x = layer(Q, p, G, h, None, None)[0].flatten()[: data.n]
        middle = time.perf_counter()
        (x * weights).sum().backward()
        end = time.perf_counter()
        assert p.grad is not None
        gradient = -p.grad[: data.n].numpy()
        return Run(middle - begin, end - middle, x.detach().numpy(), gradient)

    return run


def by_moreau(data: Case) -> Callable[[], Run]:
    moreau: Any = importlib.import_module("moreau")
    layers: Any = importlib.import_module("moreau.torch")
    Q, G, weights = data.Q, data.G, torch.from_numpy(data.weights)
    solver = layers.Solver(
        *data.G.shape[::-1], *map(torch.from_numpy, (Q.indptr, Q.indices, G.indptr, G.indices)),
        moreau.Cones(num_nonneg_cones=len(data.h)), settings=moreau.Settings(device="cpu"),
    )  # fmt: skip

    def run() -> Run:
        p = torch.from_numpy(data.p).requires_grad_()
        begin = time.perf_counter()
        found = solver.solve(
            torch.from_numpy(Q.data), torch.from_numpy(G.data), p, torch.from_numpy(data.h)
        )
        x = found.x.flatten()[: data.n]
        middle = time.perf_counter()
        (x * weights).sum().backward()
        end = time.perf_counter()
        assert p.grad is not None
        gradient = -p.grad[: data.n].numpy()
        return Run(middle - begin, end - middle, x.detach().numpy(), gradient)

    return run


CONTENDERS: dict[str, tuple[str, float, Callable[[Case], Callable[[], Run]]]] = {
    "nn.QP": ("piqp", 0.0, ours),
    "dQP, PIQP": ("dqp", CURVATURE, by_dqp),
    "PIQP + LU": ("piqp", CURVATURE, with_lu(by_piqp)),
    "Clarabel + LU": ("clarabel", CURVATURE, with_lu(by_clarabel)),
    "moreau.torch": ("moreau", CURVATURE, by_moreau),
}


def truth(data: Case) -> tuple[np.ndarray, np.ndarray]:
    """The exact x, and the gradient: on each of its pieces, the average of the weights."""
    x = fo.prox.total_variation(torch.from_numpy(-data.p[: data.n]), 1.0).numpy()
    jumps = np.abs(np.diff(x)) > 1e-12
    piece = np.concatenate([[0], np.cumsum(jumps)])
    return x, (np.bincount(piece, data.weights) / np.bincount(piece))[piece]


def measure(name: str, n: int) -> None:
    """One line of numbers: what the parent process reads."""
    _, curvature, contender = CONTENDERS[name]
    data = case(n, curvature)
    run = contender(data)
    found = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    again = run()
    best = min(found, again, key=lambda one: one.forward + one.backward)
    errors = [
        np.linalg.norm(mine - exact) / np.linalg.norm(exact)
        for mine, exact in zip((best.x, best.gradient), truth(data), strict=True)
    ]
    print("numbers", best.forward, best.backward, *errors, peak)


def main() -> None:
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        measure(arguments[1], int(arguments[2]))
        return
    n = int(arguments[0]) if arguments else 100_000
    rounds = int(arguments[1]) if len(arguments) > 1 else 3
    best: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    patience = PATIENCE * max(1.0, n / 1e5)
    for _ in range(rounds):
        for name, (package, *_) in CONTENDERS.items():
            if importlib.util.find_spec(package) is None:
                continue
            command = [sys.executable, "-W", "ignore", __file__, "--one", name, str(n)]
            if n > MOST.get(name, n):
                failed[name] = f"left out beyond n = {MOST[name]}"
            if name in failed:
                continue
            try:
                said = subprocess.run(command, capture_output=True, text=True, timeout=patience)
            except subprocess.TimeoutExpired:
                failed[name] = f"not done with two runs after {patience:.0f} s"
                continue
            if said.returncode:
                failed[name] = " ".join(said.stderr.strip().splitlines()[-1:])
                continue
            last = said.stdout.rpartition("numbers")[2]  # rivals print things too
            numbers = [float(word) for word in last.split()]
            if name not in best or sum(numbers[:2]) < sum(best[name][:2]):
                best[name] = numbers
    print(machine())
    print(f"total variation, n = {n}: {2 * n - 1} variables; the least of {2 * rounds} runs")
    print(
        f"{'':16s}{'forward s':>10s}{'backward s':>11s}{'total s':>9s}{'ratio':>7s}"
        f"{'x error':>9s}{'gradient':>10s}{'peak GB':>9s}"
    )
    known = [sum(best[name][:2]) for name in ("dQP, PIQP", "PIQP + LU") if name in best]
    rival = known[0] if known else float("nan")  # ratios are to dQP, if it is there
    for name, (package, *_) in CONTENDERS.items():
        if name not in best:
            print(f"{name:16s} {failed.get(name, f'{package} is not installed')}")
            continue
        forward, backward, x, gradient, peak = best[name]
        total = forward + backward
        print(
            f"{name:16s}{forward:10.3f}{backward:11.3f}{total:9.3f}{total / rival:7.2f}"
            f"{x:9.0e}{gradient:10.0e}{peak:9.2f}"
        )


if __name__ == "__main__":
    main()
