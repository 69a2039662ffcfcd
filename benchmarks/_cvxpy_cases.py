"""Problems for the comparison of CVXPY layers, each with its solution by other means."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import torch
from dense_qp import problem as quadratic
from torch import Tensor

import foldopt as fo

cp: Any = importlib.import_module("cvxpy")  # of whose operators the type checker knows too little
Problem = tuple[Any, list[Any], list[Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """What to time.

    Attributes
    ----------
    make
        The problem, its parameters and its variables, new at each call.
    values
        Of the parameters.
    truth
        The solution as a differentiable function of them; None: only construction is timed.
    alone
        Whether each layer has a process of its own, with limits.
    """

    title: str
    make: Callable[[], Problem]
    values: list[Tensor]
    truth: Callable[..., Tensor] | None
    alone: bool = False


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def construction(n: int, alone: bool = False) -> Case:
    def make() -> Problem:
        x, F, g = cp.Variable(n), cp.Parameter((2 * n, n)), cp.Parameter(2 * n)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g)), [x >= 0, cp.sum(x) == 1])
        return problem, [F, g], [x]

    return Case(f"construction, n = {n}", make, [], None, alone)


def programs(count: int, n: int, m: int, k: int) -> Case:
    blocks, _ = quadratic(count, n, m, k)
    Q, *rest = blocks

    def make() -> Problem:
        shapes = ((n, n), n, (m, n), m, (k, n), k)
        F, p, G, h, A, b = parameters = [cp.Parameter(shape) for shape in shapes]
        x = cp.Variable(n)
        objective = cp.Minimize(0.5 * cp.sum_squares(F @ x) + p @ x)
        return cp.Problem(objective, [G @ x <= h, A @ x == b]), parameters, [x]

    def truth(F: Tensor, *others: Tensor) -> Tensor:
        """The KKT system of the rows that Clarabel finds active, by torch.linalg."""
        blocks = (F.mT @ F, *others)
        found = fo.solvers.QP("clarabel", rtol=1e-12)(*(block.detach() for block in blocks))
        rows = []
        for Q, p, G, h, A, b, x, lam in zip(
            *blocks, found.x, found.multipliers.inequality, strict=True
        ):
            held = lam > (h - G @ x).detach()
            W = torch.cat([A, G[held]])
            corner = W.new_zeros(len(W), len(W))
            K = torch.cat([torch.cat([Q, W.mT], 1), torch.cat([W, corner], 1)])
            rows.append(torch.linalg.solve(K, torch.cat([-p, b, h[held]]))[:n])
        return torch.stack(rows)

    values = [torch.linalg.cholesky(Q).mT.contiguous(), *rest]
    return Case(f"quadratic programs, B = {count}, n = {n}, m = {m}, k = {k}", make, values, truth)


def total_variation(n: int) -> Case:
    def make() -> Problem:
        x, d, weight = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
        objective = 0.5 * cp.sum_squares(x - d) + weight * cp.norm1(cp.diff(x))
        return cp.Problem(cp.Minimize(objective)), [d, weight], [x]

    def truth(d: Tensor, weight: Tensor) -> Tensor:
        found = fo.nn.TotalVariation()(d, weight)
        assert isinstance(found, Tensor)
        return found

    signal = torch.repeat_interleave(normal(0, n // 50), 50) + 0.3 * normal(1, n)
    return Case(f"total variation, n = {n}", make, [signal, torch.tensor(1.0)], truth)


def semidefinite(count: int, k: int) -> Case:
    def make() -> Problem:
        S, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.sum_squares(S - C)), [cp.trace(S) == 1]), [C], [S]

    def truth(C: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh((C + C.mT) / 2)
        return (vectors * fo.projections.simplex(values).unsqueeze(-2)) @ vectors.mT

    C = normal(0, count, k, k)
    return Case(f"semidefinite, B = {count}, k = {k}", make, [(C + C.mT) / 2], truth)


def each(one: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same for a batch of matrices, of which the symmetric part counts."""
    return lambda C: torch.stack([one((part + part.mT) / 2) for part in C])


def correlation(count: int, k: int) -> Case:
    def make() -> Problem:
        X, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1]), [C], [X]

    def point(C: Tensor, y: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(C + torch.diag(y))
        return (vectors * values.relu()) @ vectors.mT

    def one(C: Tensor) -> Tensor:
        """The positive part of C + diag(y), for the y that puts ones on its diagonal."""

        def rest(y: Tensor, C: Tensor) -> Tensor:
            return point(C, y).diagonal() - 1

        y = torch.ones(k) - C.detach().diagonal()
        for _ in range(30):
            y = y - torch.linalg.solve(torch.func.jacfwd(rest)(y, C.detach()), rest(y, C.detach()))
        slope = torch.func.jacfwd(rest)(y, C.detach())
        return point(C, y - torch.linalg.solve(slope, rest(y, C)))

    C = 0.5 * normal(0, count, k, k)
    C = torch.eye(k) + (C + C.mT) / 2 * (1 - torch.eye(k))
    return Case(f"nearest correlation matrix, B = {count}, k = {k}", make, [C], each(one))


def cut(count: int, k: int) -> Case:
    def make() -> Problem:
        X, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.diag(X) == 1]), [C], [X]

    def rest(z: Tensor, C: Tensor) -> Tensor:
        """Of X = VVᵀ and its multipliers y: (C − diag(y)) V = 0, and X has ones on the diagonal."""
        y, V = z[:k], z[k:].view(k, -1)
        return torch.cat([(V * V).sum(1) - 1, ((C - torch.diag(y)) @ V).flatten()])

    def one(C: Tensor) -> Tensor:
        problem, (parameter,), (X,) = make()
        parameter.value = C.detach().numpy()
        problem.solve(solver="SCS", eps=1e-9)
        values, vectors = torch.linalg.eigh(torch.from_numpy(X.value))
        V = (vectors * values.clamp(min=0).sqrt())[:, values > 1e-4]
        z = torch.cat([(C.detach() @ V * V).sum(1), V.flatten()])

        # V may be turned, and so its equations have many solutions; X has one.
        def newton(C: Tensor) -> Tensor:
            slope = torch.func.jacrev(rest)(z, C.detach())
            return z - torch.linalg.pinv(slope, rtol=1e-9) @ rest(z, C)

        for _ in range(4):
            z = newton(C.detach())
        V = newton(C)[k:].view(k, -1)
        return V @ V.mT

    C = normal(0, count, k, k)
    return Case(f"maximal cut, B = {count}, k = {k}", make, [(C + C.mT) / 2], each(one))


def portfolio() -> Case:
    count, n = 8, 20
    L = 0.0025 * (2 * torch.rand(n, 4, generator=torch.Generator().manual_seed(0)) - 1)
    V = L @ L.mT + 1e-4 * torch.eye(n)
    gamma = 2.25 * V.mean()
    root = torch.linalg.cholesky(V).mT.numpy()

    def make() -> Problem:
        x, c = cp.Variable(n), cp.Parameter(n)
        rows = [cp.sum_squares(root @ x) <= float(gamma), cp.sum(x) == 1, x >= 0]
        return cp.Problem(cp.Maximize(c @ x), rows), [c], [x]

    def truth(c: Tensor) -> Tensor:
        found = fo.nn.Portfolio()(c, V, gamma)
        assert isinstance(found, Tensor)
        return found

    return Case(
        "portfolio (eq. 20), B = 8, n = 20", make, [0.05 + 0.02 * normal(1, count, n)], truth
    )


CASES: dict[str, Callable[[], list[Case]]] = {
    "construction": lambda: [construction(100), construction(1000, alone=True)],
    "qp": lambda: [programs(64, 20, 20, 5), programs(64, 100, 100, 20)],
    "tv": lambda: [total_variation(10_000), total_variation(100_000)],
    "psd": lambda: [semidefinite(8, 20), semidefinite(8, 50)],
    "correlation": lambda: [correlation(8, 50)],
    "cut": lambda: [cut(8, 50)],
    "portfolio": lambda: [portfolio()],
}
