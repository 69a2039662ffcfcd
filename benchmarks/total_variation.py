"""Total variation layers, forward and backward: nn.TotalVariation beside the other ways to do it.

- dense: a learned D, gradients in the signal, the weight and D. qpth on the quadratic program in
  (x, t) (with σ = 1 for t, as published, which is another problem, and with 1e-4; its mean over the
  batch is corrected to a sum), and cvxpylayers with DIFFCP and with MOREAU.
- sequence: one long signal, its gradient. PIQP's sparse interface on the same program, and the
  derivative from the KKT system of its active rows by SciPy's sparse LU: the way of dQP (arXiv
  2410.06324).
- image: 64 × 64 pixels, anisotropic, with dimensions=2 and as a sparse operator.

Errors are relative, in the 2-norm, to the closed form on the active rows, computed by numpy from a
solution whose optimality conditions are checked. The worst gradient counts. Methods of one case
take turns on one thread; each cell is the best of several runs.

    python benchmarks/total_variation.py [dense|sequence|image]
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldopt.nn.total_variation import TotalVariation

BUDGET = 8.0  # seconds for one method of one case
Leaves = tuple[Tensor, ...]


class Run(NamedTuple):
    forward: float
    backward: float
    x: Tensor
    gradients: Leaves


class Case(NamedTuple):
    name: str
    leaves: Leaves
    cotangent: Tensor
    x: Tensor
    gradients: Leaves
    methods: dict[str, Callable[..., Tensor]]


# -- data ------------------------------------------------------------------------------------------


def steps(count: int, n: int) -> Tensor:
    """Piecewise constant signals of 4 to 10 pieces, and noise of size 1."""
    g = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        cuts = np.sort(g.integers(0, n, g.integers(3, 10)))
        heights = g.normal(0, 3, len(cuts) + 1)
        rows.append(heights[np.searchsorted(cuts, np.arange(n), side="right")])
    return torch.tensor(np.array(rows) + g.normal(size=(count, n)))


def first_differences(n: int) -> Tensor:
    one = torch.eye(n)
    return one[1:] - one[:-1]


def long_signal(n: int) -> Tensor:
    g = np.random.default_rng(0)
    clean = np.repeat(g.normal(0, 3, n // 100 + 1), 100)[:n]
    return torch.tensor(clean + g.normal(size=n))


def photograph(size: int) -> Tensor:
    g = np.random.default_rng(0)
    image = np.zeros((size, size))
    image[size // 6 : size // 2, size // 8 : size // 2] = 1
    image[size // 2 : -4, size // 2 : -4] = 0.5
    image[5:20, -20:-10] = 0.8
    return torch.tensor(image + 0.1 * g.normal(size=image.shape))


def sparse_differences(shape: tuple[int, ...]) -> Any:
    """D of a sequence or of a flattened image, for scipy."""
    from scipy import sparse

    def one(n: int) -> Any:
        ends: Any = ([-np.ones(n - 1), np.ones(n - 1)], [0, 1])
        return sparse.diags(*ends, shape=(n - 1, n))

    if len(shape) == 1:
        return one(shape[0]).tocsc()
    H, W = shape
    return sparse.vstack(
        [sparse.kron(sparse.eye(H), one(W)), sparse.kron(one(H), sparse.eye(W))]
    ).tocsc()


# -- references ------------------------------------------------------------------------------------


def dense_reference(d: Tensor, weight: float, D: Tensor, g: Tensor) -> tuple[Tensor, Leaves]:
    """x and the gradients of gᵀx in d, λ and D, by projection off the free rows."""
    found: Any = TotalVariation(multipliers=True)(d, weight, D)
    xs, in_d, in_D, in_weight = [], [], np.zeros(D.shape), 0.0
    A = D.numpy()
    for d_i, u, g_i in zip(d.numpy(), found.multipliers.numpy(), g.numpy(), strict=True):
        free = np.abs(u) < weight
        rows, held = A[free], np.where(free, 0, weight * np.sign(u))
        z = d_i - A.T @ held
        inverse = np.linalg.pinv(rows.T)
        u_free = inverse @ z
        x = z - rows.T @ u_free
        q = inverse @ g_i
        r = g_i - rows.T @ q
        slope = A @ x
        assert (np.abs(u_free) <= weight * (1 + 1e-9)).all()
        assert (slope * held >= -1e-9).all()
        assert np.abs(slope[free]).max(initial=0) < 1e-9
        in_D -= np.outer(held, r)
        in_D[free] -= np.outer(u_free, r) + np.outer(q, x)
        in_weight -= float(np.sign(held) @ (A @ r))
        xs.append(x)
        in_d.append(r)
    gradients = (np.array(in_d), np.array(in_weight), in_D)
    return torch.tensor(np.array(xs)), tuple(map(torch.as_tensor, gradients))


def part_reference(x: Tensor, d: Tensor, weight: float, g: Tensor, D: Any) -> tuple[Tensor, Tensor]:
    """x and the gradient in d from the connected parts of x, summed exactly."""
    from math import fsum

    from scipy.sparse import coo_matrix, csgraph

    slope = D @ x.numpy().ravel()
    joined = D[np.abs(slope) < 1e-9].tocsr()
    pairs = joined.indices.reshape(-1, 2).T
    graph = coo_matrix((np.ones(pairs.shape[1]), tuple(pairs)), shape=(D.shape[1],) * 2)
    count, part = csgraph.connected_components(graph, directed=False)
    sign = np.where(np.abs(slope) < 1e-9, 0, np.sign(slope))
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=count))[:-1]
    z, cotangent = d.numpy().ravel() - weight * (D.T @ sign), g.numpy().ravel()
    means = [
        np.array([fsum(piece) / len(piece) for piece in np.split(v[order], ends)])[part]
        for v in (z, cotangent)
    ]
    return torch.tensor(means[0]).reshape(x.shape), torch.tensor(means[1]).reshape(x.shape)


# -- rivals ----------------------------------------------------------------------------------------


def by_qpth(smoothing: float) -> Callable[..., Tensor]:
    from qpth.qp import QPFunction

    solve = QPFunction(verbose=-1, eps=1e-12, maxIter=50, check_Q_spd=False)

    def layer(d: Tensor, weight: Tensor, D: Tensor) -> Tensor:
        count, (m, n) = len(d), D.shape
        Q = torch.diag(torch.cat([d.new_ones(n), d.new_full((m,), smoothing)]))
        p = torch.cat([-d, weight.expand(count, m)], 1)
        t = -torch.eye(m)
        G = torch.cat([torch.cat([D, t], 1), torch.cat([-D, t], 1)]).expand(count, -1, -1)
        none = d.new_empty(0)
        return solve(Q, p, G, d.new_zeros(2 * m), none, none)[:, :n]

    return layer


def by_cvxpylayers(m: int, n: int, solver: str) -> Callable[..., Tensor]:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    d, weight, D = cp.Parameter(n), cp.Parameter(nonneg=True), cp.Parameter((m, n))
    x, t = cp.Variable(n), cp.Variable(m)
    objective = cp.Minimize(0.5 * cp.sum_squares(x - d) + weight * cp.sum(t))
    problem = cp.Problem(objective, [D @ x <= t, -t <= D @ x])
    layer = CvxpyLayer(problem, [d, weight, D], [x], solver=solver)
    return lambda d, weight, D: layer(d, weight, D)[0]


class ByPIQP(torch.autograd.Function):
    """x by PIQP, and its derivative in d from the KKT system of the active rows."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, D: Any, weight: float) -> Tensor:
        import piqp
        from scipy import sparse

        m, n = D.shape
        one: Any = sparse.eye(m)
        P: Any = sparse.block_diag([sparse.eye(n), 1e-6 * one]).tocsc()
        G: Any = sparse.vstack([sparse.hstack([D, -one]), sparse.hstack([-D, -one])]).tocsc()
        solver = piqp.SparseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = 1e-8
        p = np.concatenate([-d.numpy().ravel(), np.full(m, weight)])
        solver.setup(P, p, G=G, h_u=np.zeros(2 * m), h_l=np.full(2 * m, -1e30))
        solver.solve()
        z = np.array(solver.result.x)
        active = np.array(solver.result.z_u) > np.maximum(-(G @ z), 0)
        ctx.system, ctx.dependent = (P, G.tocsr()[active]), m > n
        return torch.tensor(z[:n]).reshape(d.shape)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        from scipy.sparse import bmat, eye
        from scipy.sparse.linalg import splu

        P, W = ctx.system
        right = np.zeros(P.shape[0] + W.shape[0])
        right[: g[0].numel()] = g[0].numpy().ravel()
        # Differences round a square of pixels depend on one another: without a corner, the system
        # is singular, and SuperLU was seen to crash.
        corner = -1e-10 * eye(W.shape[0]) if ctx.dependent else None
        v = splu(bmat([[P, W.T], [W, corner]]).tocsc()).solve(right)
        return torch.tensor(v[: g[0].numel()]).reshape(g[0].shape), None, None


# -- cases -----------------------------------------------------------------------------------------


def tried(make: Callable[[], Callable[..., Tensor]], name: str, console: Console) -> Any:
    """A rival, or None where it is not installed, which is said."""
    try:
        return make()
    except Exception as error:
        console.print(f"{name}: not here ({type(error).__name__}: {str(error)[:80]})")
        return None


def dense_case(count: int, n: int, learned: bool, console: Console) -> Case:
    d, D, weight = steps(count, n), first_differences(n), 1.0
    if learned:
        D = D + 0.05 * torch.randn(D.shape)
    g = torch.randn(count, n)
    x, gradients = dense_reference(d, weight, D, g)
    rivals = {
        "qpth, σ = 1": lambda: by_qpth(1.0),
        "qpth, σ = 1e-4": lambda: by_qpth(1e-4),
        "cvxpylayers, DIFFCP": lambda: by_cvxpylayers(n - 1, n, "DIFFCP"),
        "cvxpylayers, MOREAU": lambda: by_cvxpylayers(n - 1, n, "MOREAU"),
    }
    methods: dict[str, Any] = {"nn.TotalVariation": TotalVariation()}
    methods |= {name: tried(make, name, console) for name, make in rivals.items()}
    kind = "learned D" if learned else "first differences as D"
    name = f"{kind}, B = {count}, n = {n}, λ = 1"
    return Case(name, (d, torch.tensor(weight), D), g, x, gradients, methods)


def rival_of(D: Any, weight: float, console: Console) -> Any:
    def make() -> Callable[..., Tensor]:
        import piqp  # noqa: F401

        return lambda d: ByPIQP.apply(d, D, weight)  # type: ignore[return-value]

    return tried(make, "PIQP", console)


def sequence_case(n: int, console: Console) -> Case:
    d, layer = long_signal(n), TotalVariation()
    D, g = sparse_differences((n,)), torch.randn(n)
    x, gradient = part_reference(layer(d, 1.0), d, 1.0, g, D)
    methods: dict[str, Any] = {
        "nn.TotalVariation": lambda d: layer(d, 1.0),
        "PIQP and the KKT system, as dQP": rival_of(D, 1.0, console),
    }
    return Case(f"sequence, n = {n:,}, λ = 1", (d,), g, x, (gradient,), methods)


def image_case(size: int, weight: float, console: Console) -> Case:
    y, images, signals = photograph(size), TotalVariation(dimensions=2), TotalVariation()
    D, g = sparse_differences((size, size)), torch.randn(size, size)
    x, gradient = part_reference(images(y, weight), y, weight, g, D)
    where = D.tocoo()
    operator = torch.sparse_coo_tensor(
        torch.tensor(np.array([where.row, where.col])),
        torch.tensor(where.data),
        where.shape,
        check_invariants=True,
    ).coalesce()
    methods: dict[str, Any] = {
        "nn.TotalVariation, dimensions=2": lambda y: images(y, weight),
        "nn.TotalVariation, sparse D": lambda y: signals(y.flatten(), weight, operator).view_as(y),
        "PIQP and the KKT system, as dQP": rival_of(D, weight, console),
    }
    return Case(f"image, {size} × {size}, λ = {weight}", (y,), g, x, (gradient,), methods)


# -- measuring -------------------------------------------------------------------------------------


def once(method: Callable[..., Tensor], case: Case) -> Run:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in case.leaves)
    begin = time.perf_counter()
    x = method(*leaves)
    middle = time.perf_counter()
    loss = (x * case.cotangent).sum()
    again = time.perf_counter()
    gradients = torch.autograd.grad(loss, leaves)
    end = time.perf_counter()
    return Run(middle - begin, end - again, x.detach(), gradients)


def relative(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def measure(case: Case, console: Console) -> None:
    best: dict[str, Run] = {}
    spent: dict[str, float] = {}
    methods = {name: method for name, method in case.methods.items() if method is not None}
    for turn in range(12):
        for name, method in list(methods.items()):
            # A method that has had its time sits out, but everything runs once.
            if turn and spent[name] * (turn + 1) / turn > BUDGET:
                continue
            begin = time.perf_counter()
            try:
                run = once(method, case)
            except Exception as error:
                console.print(f"{name}: {type(error).__name__}: {str(error)[:100]}")
                del methods[name]
                continue
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
            old = best.get(name)
            if old is None or run.forward + run.backward < old.forward + old.backward:
                best[name] = run
    table = Table(title=case.name)
    for heading in ("", "forward, ms", "backward, ms", "total, ms", "/ ours", "x", "gradient"):
        table.add_column(heading, justify="right" if heading else "left")
    ours = next(iter(best.values()))
    for name, run in best.items():
        total = run.forward + run.backward
        pairs = zip(run.gradients, case.gradients, strict=True)
        table.add_row(
            name, f"{1e3 * run.forward:.2f}", f"{1e3 * run.backward:.2f}", f"{1e3 * total:.2f}",
            f"{total / (ours.forward + ours.backward):.1f}", f"{relative(run.x, case.x):.0e}",
            f"{max(relative(mine, exact) for mine, exact in pairs):.0e}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    console = Console(width=120)
    console.print(machine())
    asked = sys.argv[1:] or ["dense", "sequence", "image"]
    if "dense" in asked:
        for count, n in ((32, 100), (8, 400)):
            for learned in (False, True):
                measure(dense_case(count, n, learned, console), console)
    if "sequence" in asked:
        for n in (100_000, 1_000_000):
            measure(sequence_case(n, console), console)
    if "image" in asked:
        for weight in (0.1, 0.3):
            measure(image_case(64, weight, console), console)


if __name__ == "__main__":
    main()
