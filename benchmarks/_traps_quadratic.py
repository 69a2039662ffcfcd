"""Traps that are quadratic or linear programs. Truth: the KKT system of the right active set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from _traps import Trap, Truth
from _traps_layers import QUADRATIC
from torch import Tensor

BLOCKS = ("Q", "p", "G", "h", "A", "b")
Program = dict[str, Tensor]


def real(numbers: Sequence) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def base(count: int = 2, n: int = 4, m: int = 3, k: int = 1) -> Program:
    """A well-behaved program with some constraints active, and x = 0 feasible."""
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    R = normal(count, n, n)
    Q = R @ R.mT / n + torch.eye(n, dtype=torch.float64)
    h = 0.1 + 0.2 * torch.rand(count, m, generator=g, dtype=torch.float64)
    A = normal(count, k, n)
    return {"Q": Q, "p": 2 * normal(count, n), "G": normal(count, m, n), "h": h,
            "A": A, "b": A.new_zeros(count, k)}  # fmt: skip


def plain(p: Tensor, G: Tensor, h: Tensor, Q: Tensor | None = None) -> Program:
    """½xᵀQx + pᵀx over Gx ≤ h, Q the identity, a batch of one."""
    n = p.shape[-1]
    Q = torch.eye(n, dtype=torch.float64) if Q is None else Q
    A = p.new_zeros(1, 0, n)
    return {"Q": Q[None], "p": p[None], "G": G[None], "h": h[None], "A": A, "b": A.new_zeros(1, 0)}


def exact(program: Program) -> Tensor:
    """x of each sample, differentiable in all blocks: each active set is tried."""
    rows = []
    for i in range(len(program["Q"])):
        Q, p, G, h, A, b = (
            block[i] if block.dim() > (2 if name in "QGA" else 1) else block
            for name, block in ((name, program[name]) for name in BLOCKS)
        )
        Q, n = (Q + Q.mT) / 2, len(p)
        for size in range(min(len(h), n - len(b)) + 1):
            for active in itertools.combinations(range(len(h)), size):
                W = torch.cat([A, G[list(active)]])
                corner = W.new_zeros(len(W), len(W))
                K = torch.cat([torch.cat([Q, W.mT], 1), torch.cat([W, corner], 1)])
                if torch.linalg.matrix_rank(K.detach()) < len(K):
                    continue
                z = torch.linalg.solve(K, torch.cat([-p, b, h[list(active)]]))
                x, lam = z[:n], z[n + len(b) :]
                if bool((lam > 0).all()) and bool((G @ x <= h + 1e-12 * (1 + h.abs())).all()):
                    break
            else:
                continue
            break
        else:
            raise ValueError("no active set fits")
        rows.append(x)
    return torch.stack(rows)


def of_first(program: Program, lost: int) -> Truth:
    """x, and the gradient in p of ``trap``'s loss, of the first of two samples."""
    p = program["p"][:1].clone().requires_grad_()
    x = exact({**{key: block[:1] for key, block in program.items()}, "p": p})
    (gradient,) = torch.autograd.grad((x * weights(program)[:1]).sum(), p)
    return Truth(x.detach().expand(2, -1), (gradient,), lost=(lost,))


def weights(program: Program) -> Tensor:
    """The loss is the product of x with these."""
    g = torch.Generator().manual_seed(8)
    numbers = torch.randn(program["Q"].shape[:2], generator=g, dtype=torch.float64)
    return numbers.to(program["p"].dtype)


def trap(
    name: str,
    what: str,
    program: Program,
    wanted: str = "p",
    *,
    truth: Callable[..., Tensor] | Truth | None = None,
    without: Sequence[str] = (),
) -> Trap:
    """Gradients of the blocks named by ``wanted``; the truth is ``exact`` unless given."""
    cotangent = weights(program)

    def filled(leaves: Sequence[Tensor]) -> Program:
        return {**program, **dict(zip(wanted, leaves, strict=True))}

    if not isinstance(truth, Truth):
        leaves = [program[name].double().clone().requires_grad_() for name in wanted]
        find = exact if truth is None else truth
        x = find({key: block.double() for key, block in filled(leaves).items()})
        gradients = torch.autograd.grad((x * cotangent.double()).sum(), leaves)
        truth = Truth(x.detach(), gradients)

    def posed(make: Callable) -> Callable:
        def made() -> Callable:
            layer = make()
            return lambda *leaves: layer(*(filled(leaves)[key] for key in BLOCKS))

        return made

    pose = {key: posed(make) for key, make in QUADRATIC.items() if key not in without}
    leaves_ = tuple(program[key] for key in wanted)
    return Trap(name, what, leaves_, cotangent, truth, pose)


def cut(program: Program) -> Tensor:
    """The truth of a program whose second row is the first one again."""
    rows = [0, *range(2, program["h"].shape[-1])]
    return exact({**program, "G": program["G"][:, rows], "h": program["h"][:, rows]})


def first_equality(program: Program) -> Tensor:
    return exact({**program, "A": program["A"][:, :1], "b": program["b"][:, :1]})


def traps() -> Iterator[Trap]:
    one = base()
    shared = {**one, "p": one["p"][0]}
    yield trap("shared parameter", "p is the same for both samples: its gradient is the sum",
               shared, "p")  # fmt: skip
    twice = {**one, "G": torch.cat([one["G"][:, :1], one["G"]], 1),
             "h": torch.cat([one["h"][:, :1], one["h"]], 1)}  # fmt: skip
    yield trap("a row twice", "one active constraint is there twice: the KKT matrix is singular",
               twice, "Qp", truth=cut)  # fmt: skip
    A, b = one["A"], one["b"]
    yield trap("redundant equalities", "the second equality is twice the first",
               {**one, "A": torch.cat([A, 2 * A], 1), "b": torch.cat([b, 2 * b], 1)}, "Qp",
               truth=first_equality)  # fmt: skip

    c, row = real([0.5, -0.2]), real([[1.0, 0.0]])
    w = weights(plain(c, row, c[:1]))
    sides = (-w, -w * real([0.0, 1.0]))
    yield trap("weakly active", "x₁ ≤ c₁ at the minimum c: the derivative is one-sided, and any "
               "between the two sides is accepted",
               plain(-c, row, c[:1]), "p", truth=Truth(c[None], (sides,)))  # fmt: skip
    yield trap("just inactive", "the same with a slack of 1e-6: it has no influence",
               plain(-c, row, c[:1] + 1e-6), "p")  # fmt: skip
    yield trap("just active", "the same with a multiplier of 1e-6: x₁ does not move",
               plain(-c, row, c[:1] - 1e-6), "p")  # fmt: skip

    box = torch.cat([torch.eye(4), -torch.eye(4)]).double().expand(2, 8, 4)
    far = {**one, "G": torch.cat([one["G"], box], 1),
           "h": torch.cat([one["h"], torch.full((2, 8), 1e6, dtype=torch.float64)], 1)}  # fmt: skip
    yield trap("bounds of ±1e6", "beside constraints of size one, as placeholders", far, "ph")
    for factor in (1e6, 1e-6):
        yield trap(f"objective × {factor:.0e}", "the units of the objective do not matter for x",
                   {**one, "Q": factor * one["Q"], "p": factor * one["p"]}, "ph")  # fmt: skip
    for factor in (1e5, 1e-5):
        scale = real([factor, 1.0, 1.0])
        yield trap(f"a row × {factor:.0e}", "the units of one constraint do not matter for x",
                   {**one, "G": one["G"] * scale[:, None], "h": one["h"] * scale}, "p")  # fmt: skip
    d = torch.diag_embed(real([1.0, 1e-3, 1e-6, 1e-8]))
    yield trap("condition 1e8", "curvatures from 1 to 1e-8, x of size one",
               plain(real([0.5, 4e-4, -3e-7, 2e-9]), real([[1.0, 1.0, 0.0, 0.0]]), real([-0.5]),
                     d), "p")  # fmt: skip
    skew = real([[0.0, 0.6], [-0.6, 0.0]])
    yield trap("asymmetric Q", "xᵀQx sees the symmetric part of Q alone; qpth and moreau ask for a "
               "symmetric Q", plain(real([-1.0, -2.0]), real([[1.0, 1.0]]), real([0.5]),
                                   real([[2.0, 0.3], [0.3, 1.0]]) + skew), "p",
               without=("CvxpyLayer", "DIFFCP", "MOREAU"))  # fmt: skip
    yield trap("float32", "what comes out is float32, and right to 1e-3",
               {key: block.float() for key, block in one.items()}, "ph")  # fmt: skip

    square = torch.cat([torch.eye(2), -torch.eye(2)]).double()
    none = torch.zeros(2, 2, dtype=torch.float64)
    yield trap("a linear program", "at a vertex x moves with h, and not with p",
               plain(real([-1.0, -2.0]), square, real([1.0, 2.0, 3.0, 4.0]), none), "ph",
               truth=lambda q: q["h"][:, :2] + 0 * q["p"])  # fmt: skip
    yield trap("a linear program without a unique solution", "p is normal to an edge: there is "
               "no derivative in p",
               plain(real([-1.0, 0.0]), square, real([1.0, 2.0, 3.0, 4.0]), none), "p",
               truth=Truth(None, None))  # fmt: skip
    saddle = torch.diag_embed(real([1.0, -1.0]))
    yield trap("nonconvex", "Q has eigenvalues 1 and −1; the minimum is x = (−0.3, −1)",
               plain(real([0.3, 0.1]), square, torch.ones(4).double(), saddle), "p",
               truth=lambda q: torch.stack([-q["p"][:, 0], 0 * q["p"][:, 1] - 1], 1),
               without=("CvxpyLayer", "DIFFCP", "MOREAU"))  # fmt: skip

    corner = real([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    yield trap("a corner of three rows", "three constraints meet in the plane, all of them needed "
               "at most twice: x stays there", plain(real([-3.0, -4.0]), corner,
               real([1.0, 1.0, 2.0])), "p", truth=lambda q: 0 * q["p"] + 1)  # fmt: skip

    g = base(2, 2, 2, 0)
    for gap, words in ((2.0, "x₁ ≤ −1 and x₁ ≥ 1"), (1e-3, "x₁ ≤ 0.999 and x₁ ≥ 1")):
        rows = real([[1.0, 0.0], [-1.0, 0.0]]).expand(2, 2, 2)
        apart = {**g, "G": rows, "h": real([[1.0, 1.0], [1.0 - gap, -1.0]])}
        name = "infeasible" if gap > 1 else f"infeasible by {gap:g}"
        yield trap(name, f"the second of two samples asks for {words}", apart, "p",
                   truth=of_first(apart, 1))  # fmt: skip
    p, wide = g["p"].clone(), {**g, "G": rows, "h": g["h"] + 1}
    p[1, 0] = torch.nan
    yield trap("NaN", "in p of the second of two samples", {**wide, "p": p}, "p",
               truth=of_first(wide, 1))  # fmt: skip
    flat = torch.diag_embed(real([[1.0, 1.0], [1.0, 0.0]]))
    open_ = {**wide, "Q": flat, "p": real([[0.3, -1.0], [0.3, -1.0]])}
    yield trap("unbounded", "the second of two samples falls for ever along x₂", open_, "p",
               truth=of_first(open_, 1))  # fmt: skip
