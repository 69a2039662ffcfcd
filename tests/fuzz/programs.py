"""Calls of layers and solvers of optimization problems."""

from __future__ import annotations

import dataclasses
import importlib.util

from tests.fuzz.targets import ON_FAILURE, Argument, Call, options, target
from tests.fuzz.values import Drawer, Source


def _blocks(d: Drawer, bounds: bool = True) -> tuple[list[Argument], tuple[int, ...]]:
    """Q, p, G, h, A, b and bounds of a quadratic program, and the shape of its x."""
    n, m, k = d.size(), d.size(0, 3), d.size(0, 2)
    Q, p = d.array(n, n, kind="semidefinite"), d.array(n, own=True)
    args: list[Argument] = [Q, p]
    if d.among(True, True, False):
        args += [d.array(m, n), d.array(m, kind="positive")]
    else:
        args += [Source("None"), Source("None")]
    if d.among(True, False):
        args += [d.array(k, n), d.array(k)]
    else:
        args += [Source("None"), Source("None")]
    if bounds and d.among(True, False):
        high = d.array(n, own=False, kind="positive")
        args += [dataclasses.replace(high, values=tuple(-v for v in high.values)), high]
    return args, p.shape


@target("nn.QP")
def _qp(d: Drawer) -> Call:
    args, shape = _blocks(d)
    given = options(d, on_failure=ON_FAILURE, regularization=(0.0, 0.1, -1.0, float("inf")))
    return Call("nn.QP", f"fo.nn.QP({given})", tuple(args), shape=shape)


@target("operators.quadratic_program")
def _quadratic_program(d: Drawer) -> Call:
    args, shape = _blocks(d, bounds=False)
    given = tuple(
        (name, Source(repr(d.among(*values))))
        for name, values in (
            ("method", ("active_set", "admm", "active_set", "newton")),
            ("on_failure", ON_FAILURE),
        )
        if d.among(True, False)
    )
    name = "operators.quadratic_program"
    return Call(name, f"fo.{name}", tuple(args), given, shape=shape)


@target("operators.polyhedron")
def _polyhedron(d: Drawer) -> Call:
    args, shape = _blocks(d, bounds=False)
    return Call("operators.polyhedron", "fo.operators.polyhedron", tuple(args[1:]), shape=shape)


@target("solvers.QP")
def _solver(d: Drawer) -> Call:
    args, _ = _blocks(d)
    engines = ("auto", "auto", "piqp", "clarabel", "daqp", "osqp", "proxqp", "highs", "nobody")
    given = options(
        d, engine=engines, rtol=(1e-6, -1.0, "x"), max_iterations=(1, 100, 0), time_limit=(5.0, -1)
    )
    return Call("solvers.QP", f"fo.solvers.QP({given})", tuple(args), smooth=False)


@target("solvers.ADMM")
def _admm(d: Drawer) -> Call:
    args, _ = _blocks(d)
    given = options(d, max_iterations=(50, 2000, 0), rtol=(1e-6, -1.0))
    return Call("solvers.ADMM", f"fo.solvers.ADMM({given})", tuple(args), smooth=False)


@target("solvers.Conic")
def _conic(d: Drawer) -> Call:
    n, zero, linear, cone = d.size(1), d.size(0, 1), d.size(0, 2), d.among((), (3,), (1,))
    cones = f"fo.solvers.Cones(zero={zero}, nonnegative={linear}, second_order={cone!r})"
    m = zero + linear + sum(cone)
    args = (d.array(n, n, kind="semidefinite"), d.array(n), d.array(m, n), d.array(m))
    return Call("solvers.Conic", f"fo.solvers.Conic({cones})", args, smooth=False)


@target("nn.Portfolio")
def _portfolio(d: Drawer) -> Call:
    n = d.size(1)
    c, V = d.array(n, own=True), d.array(n, n, kind="semidefinite")
    form = d.among("risk-bound", "mean-variance", "risk-bound", "both")
    given = ", ".join(filter(None, (f"form={form!r}", options(d, on_failure=ON_FAILURE))))
    args = (c, V, d.array(kind="positive"))
    return Call("nn.Portfolio", f"fo.nn.Portfolio({given})", args, shape=c.shape)


@target("nn.SmoothTopK")
def _top_k(d: Drawer) -> Call:
    n = d.size(1)
    scores = d.array(n, own=True)
    k = d.among(1, 2, n, n / 2, 0.5, 0, -1, float("nan"), True, "two")
    form = d.among("entropy", "binary", "entropy", "sparse")
    given = ", ".join(
        filter(None, (repr(k), f"form={form!r}", options(
            d, on_failure=ON_FAILURE, temperature=(0.1, 1e-8, 1e8, 0.0, float("inf")))))
    )  # fmt: skip
    beside = (("temperature", d.array(kind="positive")),) if d.among(True, False, False) else ()
    return Call("nn.SmoothTopK", f"fo.nn.SmoothTopK({given})", (scores,), beside,
                shape=scores.shape)  # fmt: skip


@target("nn.TotalVariation")
def _variation(d: Drawer) -> Call:
    images = d.among(False, False, True)
    n = d.size(1, 5)
    signal = d.array(d.size(1, 3), n, own=True) if images else d.array(n, own=True)
    args: list[Argument] = [signal, d.array(kind="positive")]
    m = d.size(0, 4)
    if not images and d.among(True, False):
        args.append(d.array(m, n))
    words = f"dimensions={2 if images else 1}"
    given = ", ".join(filter(None, (words, options(d, on_failure=ON_FAILURE))))
    return Call("nn.TotalVariation", f"fo.nn.TotalVariation({given})", tuple(args),
                shape=signal.shape)  # fmt: skip


@target("operators.total_variation_2d")
def _variation_2d(d: Drawer) -> Call:
    y = d.array(d.size(1, 3), d.size(1, 3), own=True)
    name = "operators.total_variation_2d"
    return Call(name, f"fo.{name}", (y, d.array(kind="positive", own=False)), shape=y.shape)


@target("nn.NLP")
def _nlp(d: Drawer) -> Call:
    n = d.size(1, 3)
    objective, row = d.among("f.bowl", "f.waves"), d.among("", ", f.disc", ", f.below")
    row += d.among("", ", equality=f.total") if n > 1 else ""
    given = options(
        d, solver=("sqp", "ipopt", "newton"), on_failure=ON_FAILURE, starts=(1, 2, 0),
        degenerate=("least-squares", "damped", "guess"),
    )  # fmt: skip
    made = f"fo.nn.NLP({objective}{row}, n={n}{', ' * bool(given)}{given})"
    c = d.array(n, own=True)
    dims = len(d.batch)
    made = made[:-1] + f", batch_dims={dims})"
    return Call("nn.NLP", made, (c,), shape=c.shape)


@target("nn.f_pgd")
def _f_pgd(d: Drawer) -> Call:
    n = d.size(1, 3)
    name = d.among("f_pgd_a", "f_pgd_b", "f_sqp")
    row = d.among("", ", f.below", ", equality=f.total")
    c = d.array(n, own=True)
    x0 = d.array(n, own=True)
    made = f"fo.nn.{name}(f.bowl{row})"
    return Call("nn.f_pgd", made, (c,), (("x0", x0),), shape=c.shape, smooth=False)


@target("nn.f_fdpg")
def _f_fdpg(d: Drawer) -> Call:
    n, m = d.size(1, 4), d.size(1, 3)
    signal = d.array(n, own=True)
    args = (signal, d.array(m, n), d.array(kind="positive", own=False))
    return Call("nn.f_fdpg", "fo.nn.f_fdpg()", args, shape=signal.shape)


@target("cvxpy.CvxpyLayer")
def _cvxpy(d: Drawer) -> Call:
    name = d.among("quadratic", "cone", "entropy", "semidefinite")
    how = d.among("raise", "mask")
    batch = d.batch if len(d.batch) < 2 else ()
    inner = dataclasses.replace(d, batch=batch)
    args = (inner.array(3), inner.array(2, 3))
    if importlib.util.find_spec("cvxpy") is None:
        return Call("cvxpy.CvxpyLayer", "fo.prox.l1", args[:1])
    return Call("cvxpy.CvxpyLayer", f"f.cvxpy_layer({name!r}, on_failure={how!r})", args)
