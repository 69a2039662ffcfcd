"""Cases of total variation: data, the solution and the gradients by other means, and methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _total_variation_rivals import by_cvxpylayers, by_qpth, rival_of, tried
from rich.console import Console
from torch import Tensor

from foldopt.nn.total_variation import TotalVariation

Leaves = tuple[Tensor, ...]


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


# -- cases -----------------------------------------------------------------------------------------


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
