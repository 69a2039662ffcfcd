"""Traps beyond quadratic programs: cones, exponentials, and layers with a form of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _traps import Layer, Trap, Truth
from _traps_layers import heard, module, of_cvxpy
from torch import Tensor

import foldopt as fo


def trap(
    name: str,
    what: str,
    problem: Callable[[Any], tuple[Any, list[Any], Any]],
    value: Tensor,
    truth: tuple[Tensor, Tensor],
    cotangent: Tensor,
    own: Callable[[], Layer] | None = None,
) -> Trap:
    """A problem of CVXPY with one parameter; ``own`` makes our ready layer for it."""

    def posed(library: str) -> Callable[[], Layer]:
        def made() -> Layer:
            whole, parameters, variable = problem(module("cvxpy"))
            return of_cvxpy(library)(whole, parameters, [variable])

        return made

    pose = {library: posed(library) for library in ("CvxpyLayer", "DIFFCP", "MOREAU")}
    if own is not None:
        pose["fold-opt"] = lambda: heard(own())
    return Trap(name, what, (value,), cotangent, Truth(truth[0], (truth[1],)), pose)


def normal(seed: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def differentiated(function: Callable[[Tensor], Tensor], c: Tensor, w: Tensor) -> Any:
    """x and the gradient of wᵀx, of a closed form."""
    leaf = c.clone().requires_grad_()
    x = function(leaf)
    (gradient,) = torch.autograd.grad((x * w).sum(), leaf)
    return x.detach(), gradient


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """What the other benchmarks take for granted: float64 wherever no dtype is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def portfolio() -> Trap:
    import portfolio as table

    with doubles():
        data = table.draw()
        truth = table.exact(data)
    root = torch.linalg.cholesky(data.V).mT.numpy()

    def problem(cp: Any) -> Any:
        x, c = cp.Variable(table.N), cp.Parameter(table.N)
        rows = [cp.sum_squares(root @ x) <= float(data.gamma), cp.sum(x) == 1, x >= 0]
        return cp.Problem(cp.Maximize(c @ x), rows), [c], x

    return trap(
        "portfolio", "eq. 20 at its own scale: covariances of 1e-4, a risk of 1e-5, 20 assets",
        problem, data.c, truth, data.cotangent,
        lambda: lambda c: fo.nn.Portfolio()(c, data.V, data.gamma),
    )  # fmt: skip


def top_k(form: Any) -> Trap:
    import top_k as table

    scores, w = 3 * normal(0, table.B, table.N), normal(1, table.B, table.N)
    with doubles():
        truth = table.exact(scores, w, form)

    def problem(cp: Any) -> Any:
        c, x = cp.Parameter(table.N), cp.Variable(table.N)
        entropy = cp.sum(cp.entr(x))
        if form == "binary":
            entropy = entropy + cp.sum(cp.entr(1 - x))
        whole = cp.Problem(cp.Maximize(c @ x + entropy), [cp.sum(x) == table.K, x <= 1])
        return whole, [c], x

    return trap(
        f"smooth top-k, {form}", "the 5 largest of 100 scores, by an entropy",
        problem, scores, truth, w,
        lambda: fo.nn.SmoothTopK(table.K, form=form),
    )  # fmt: skip


def top_k_of_all() -> Trap:
    scores, w = torch.full((2, 4), 2.0, dtype=torch.float64), normal(1, 2, 4)

    def problem(cp: Any) -> Any:
        c, x = cp.Parameter(4), cp.Variable(4)
        whole = cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 4, x <= 1])
        return whole, [c], x

    truth = torch.ones_like(scores), torch.zeros_like(scores)
    return trap("smooth top-k, k = n", "the 4 largest of 4 equal scores: x is 1, and stays there",
                problem, scores, truth, w, lambda: fo.nn.SmoothTopK(4))  # fmt: skip


def softmax() -> Trap:
    c, w = 4 * normal(2, 4, 10), normal(3, 4, 10)

    def problem(cp: Any) -> Any:
        x, p = cp.Variable(10), cp.Parameter(10)
        return cp.Problem(cp.Maximize(p @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1]), [p], x

    return trap("entropy on a simplex", "its closed form is the softmax, some entries of it tiny",
                problem, c, differentiated(lambda c: c.softmax(-1), c, w), w,
                lambda: fo.nn.SmoothTopK(1))  # fmt: skip


def apex() -> Trap:
    c, w = 0.2 * normal(4, 3, 4), normal(5, 3, 4)

    def problem(cp: Any) -> Any:
        x, p = cp.Variable(4), cp.Parameter(4)
        objective = cp.norm(x, 2) + 0.5 * cp.sum_squares(x - p)
        return cp.Problem(cp.Minimize(objective)), [p], x

    zero = torch.zeros_like(c)
    return trap("a norm at zero", "‖x‖ + ½‖x − c‖² with ‖c‖ < 1: x is zero, and stays there",
                problem, c, (zero, zero), w)  # fmt: skip


def norm_away() -> Trap:
    c, w = 3 * normal(6, 3, 4), normal(7, 3, 4)

    def problem(cp: Any) -> Any:
        x, p = cp.Variable(4), cp.Parameter(4)
        objective = cp.norm(x, 2) + 0.5 * cp.sum_squares(x - p)
        return cp.Problem(cp.Minimize(objective)), [p], x

    def exact(c: Tensor) -> Tensor:
        return (1 - 1 / c.norm(dim=-1, keepdim=True)) * c

    return trap("a norm elsewhere", "the same with ‖c‖ > 1, where c shrinks by one", problem, c,
                differentiated(exact, c, w), w)  # fmt: skip


def semidefinite(spectrum: list[float] | None, name: str, what: str) -> Trap:
    k = 4 if spectrum else 6
    frame = torch.linalg.qr(normal(8, k, k))[0]
    values = torch.tensor(spectrum, dtype=torch.float64) if spectrum else normal(9, k)
    C = (frame * values) @ frame.mT
    C, w = ((C + C.mT) / 2)[None], normal(10, 1, k, k)
    w = w + w.mT
    positive = values > 0
    x = (frame * values.clamp_min(0)) @ frame.mT
    # Daleckii and Krein: in the frame, divided differences of [·]₊.
    a, b = values[:, None], values[None, :]
    mixed = (a.clamp_min(0) - b.clamp_min(0)) / torch.where(a == b, 1, a - b)
    D = torch.where(a == b, positive[:, None].double(), mixed)
    gradient = frame @ (D * (frame.mT @ w[0] @ frame)) @ frame.mT

    def problem(cp: Any) -> Any:
        S, p = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.sum_squares(S - p))), [p], S

    def own() -> Layer:
        return fo.projections.positive_semidefinite

    return trap(name, what, problem, C, (x[None], gradient[None]), w, own)


def traps() -> Iterator[Trap]:
    yield portfolio()
    yield top_k("entropy")
    yield top_k("binary")
    yield top_k_of_all()
    yield softmax()
    yield apex()
    yield norm_away()
    yield semidefinite(None, "nearest semidefinite matrix", "of a symmetric matrix of order 6")
    yield semidefinite([2.0, 2.0, -1.0, -1.0], "equal eigenvalues",
                       "the same where eigenvalues are equal: their vectors have no derivative, "
                       "the projection has")  # fmt: skip
