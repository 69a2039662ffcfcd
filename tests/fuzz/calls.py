"""Strategies that draw calls of the public API: well-formed ones, and ones with something wrong.

A call is a source text that makes what is called (``fo.nn.QP(on_failure='mask')``), arguments, and
what may be expected of it if nothing is wrong. Its repr is a program that repeats it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck
from hypothesis import strategies as st

from tests.fuzz.values import Array, Drawer, Source, drawers, spoiled

Argument = Array | Source
# Some calls are slow and many are large: nothing to be warned of.
HEALTH = (
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example,
    HealthCheck.filter_too_much,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Call:
    """One call.

    Attributes
    ----------
    target
        The name of the strategy that drew it.
    function
        Source of what is called, with ``fo``, ``torch``, ``np`` and ``f`` (the functions of
        :mod:`tests.fuzz.functions`) at hand.
    args, kwargs
        The arguments.
    shape
        Of the first tensor that it returns, if nothing is wrong; None: not known.
    smooth
        Whether the derivative can be held against finite differences of the call.
    spoiled
        Whether something was made wrong, or extreme, on purpose.
    """

    target: str
    function: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...] = ()
    shape: tuple[int, ...] | None = None
    smooth: bool = True
    spoiled: bool = False

    def __repr__(self) -> str:
        given = [repr(arg) for arg in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs]
        inside = ",\n    ".join(given)
        return f"{self.function}(\n    {inside},\n)" if given else f"{self.function}()"


Maker = Callable[[Drawer], Call]
TARGETS: dict[str, Maker] = {}


def target(name: str) -> Callable[[Maker], Maker]:
    def enter(maker: Maker) -> Maker:
        TARGETS[name] = maker
        return maker

    return enter


@st.composite
def calls(draw: Any, name: str) -> Call:
    """A call of one target; half of them with one or two arguments spoiled."""
    call = TARGETS[name](draw(drawers()))
    args, kwargs = list(call.args), dict(call.kwargs)
    places = [*range(len(args)), *kwargs]
    if not places or not draw(st.booleans()):
        return call
    for place in {draw(st.sampled_from(places)), draw(st.sampled_from(places))}:
        held: Any = args if isinstance(place, int) else kwargs
        if isinstance(held[place], Array):
            held[place] = spoiled(draw, held[place])
    return dataclasses.replace(call, args=tuple(args), kwargs=tuple(kwargs.items()), spoiled=True)


def options(d: Drawer, **choices: tuple[Any, ...]) -> str:
    """Keyword arguments as source, most of them left out; each value as its repr."""
    given = []
    for name, values in choices.items():
        if d.among(False, False, True):
            given.append(f"{name}={d.among(*values)!r}")
    return ", ".join(given)


ON_FAILURE = ("raise", "mask", "warn", "mask", "never", None)


# -- closed forms ---------------------------------------------------------------------------------


def _pointwise(name: str, *, last: bool, least: int = 0, extra: str | None = None) -> None:
    """An operator of y ``(*batch, n)`` and a number or a tensor ``(*batch,)`` beside it."""

    @target(name)
    def make(d: Drawer) -> Call:
        y = d.array(d.size(least), own=True)
        args: list[Argument] = [y]
        if extra and d.among(True, True, False):
            args.append(d.array(own=d.among(True, False) and last, kind=extra))
        return Call(name, f"fo.{name}", tuple(args), shape=y.shape)


for _name in ("l1", "squared_l2"):
    _pointwise(f"prox.{_name}", last=False, extra="positive")
for _name in ("l2", "linf", "total_variation"):
    _pointwise(f"prox.{_name}", last=True, extra="positive")
for _name in ("ball", "l1_ball", "linf_ball"):
    _pointwise(f"projections.{_name}", last=True, extra="positive")
_pointwise("projections.simplex", last=True, least=1, extra="positive")
_pointwise("projections.nonnegative", last=False)
_pointwise("projections.second_order_cone", last=True, least=1)
_pointwise("projections.isotonic", last=True)


@target("prox.conjugate")
def _conjugate(d: Drawer) -> Call:
    y = d.array(d.size(), own=True)
    name = d.among("l1", "l2", "linf", "squared_l2")
    weight = d.array(kind="positive", own=False)
    return Call("prox.conjugate", f"fo.prox.conjugate(fo.prox.{name})", (y, weight), shape=y.shape)


@target("prox.group_l2")
def _group(d: Drawer) -> Call:
    n = d.size()
    y = d.array(n, own=True)
    groups = Array(tuple(float(i % 2) for i in range(n)), (n,), "int64")
    weight = d.array(kind="positive", own=False)
    return Call("prox.group_l2", "fo.prox.group_l2", (y, weight, groups), shape=y.shape)


@target("prox.nuclear")
def _nuclear(d: Drawer) -> Call:
    y = d.array(d.size(), d.size(), own=True)
    args = (y, d.array(own=d.among(True, False), kind="positive"))
    return Call("prox.nuclear", "fo.prox.nuclear", args, shape=y.shape)


@target("projections.positive_semidefinite")
def _psd(d: Drawer) -> Call:
    n = d.size()
    y = d.array(n, n, own=True)
    return Call("projections.positive_semidefinite", "fo.projections.positive_semidefinite", (y,),
                shape=y.shape)  # fmt: skip


@target("projections.exponential_cone")
def _exponential(d: Drawer) -> Call:
    y = d.array(3, own=True)
    return Call("projections.exponential_cone", "fo.projections.exponential_cone", (y,),
                shape=y.shape)  # fmt: skip


@target("projections.capped_simplex")
def _capped(d: Drawer) -> Call:
    y = d.array(d.size(1), own=True)
    total = d.array(own=d.among(True, False), kind="positive")
    total = dataclasses.replace(total, values=tuple(min(v, 0.9) for v in total.values))
    return Call("projections.capped_simplex", "fo.projections.capped_simplex", (y, total),
                shape=y.shape)  # fmt: skip


@target("projections.power_cone")
def _power(d: Drawer) -> Call:
    y = d.array(3, own=True)
    alpha = Source(d.among("0.5", "0.25", "1e-3", "0.999", "0.0", "1", "1e-12", "-1.0"))
    well = alpha.text in ("0.5", "0.25")
    return Call("projections.power_cone", "fo.projections.power_cone", (y, alpha), shape=y.shape,
                spoiled=not well)  # fmt: skip


@target("projections.box")
def _box(d: Drawer) -> Call:
    n = d.size()
    y, low, width = d.array(n, own=True), d.array(n, own=False), d.array(n, own=False)
    high = dataclasses.replace(
        low, values=tuple(a + abs(b) for a, b in zip(low.values, width.values, strict=True))
    )
    return Call("projections.box", "fo.projections.box", (y, low, high), shape=y.shape)


@target("projections.half_space")
def _half_space(d: Drawer) -> Call:
    n = d.size(1)
    y = d.array(n, own=True)
    args = (y, d.array(n, kind="positive"), d.array())
    return Call("projections.half_space", "fo.projections.half_space", args, shape=y.shape)


@target("projections.affine")
def _affine(d: Drawer) -> Call:
    n, m = d.size(), d.size(0, 3)
    y = d.array(n, own=True)
    args = (y, d.array(m, n), d.array(m))
    # The rank of A may change where A moves: its derivative assumes that it stays.
    return Call("projections.affine", "fo.projections.affine", args, shape=y.shape, smooth=m <= n)


@target("projections.permutahedron")
def _permutahedron(d: Drawer) -> Call:
    n = d.size()
    y = d.array(n, own=True)
    args = (y, d.array(n))
    return Call("projections.permutahedron", "fo.projections.permutahedron", args, shape=y.shape)


# -- programs -------------------------------------------------------------------------------------


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


# -- folds ----------------------------------------------------------------------------------------

ADJOINTS = (
    "fo.Auto()", "fo.Dense()", "fo.GMRES()", "fo.BiCGSTAB()", "fo.CG()", "fo.LFPI()",
    "fo.Dense(least_squares=True)", "fo.GMRES(max_iterations=1)", "fo.GMRES(restart=0)",
    "fo.LFPI(rtol=-1.0)", "fo.CG(max_iterations=0)", "fo.Dense", "None", "lambda A, b: b",
    "lambda A, b: None", "fo.BiCGSTAB(rtol=float('nan'))", "3",
)  # fmt: skip
STEPS = (
    "f.half", "f.grow", "f.root", "f.idle", "f.mixing", "fo.steps.gradient(f.bowl, 0.5)",
    "fo.steps.newton(f.bowl)", "fo.steps.projected_gradient(f.bowl, f.onto, 0.5)",
    "fo.steps.proximal_gradient(f.bowl, f.prox, 0.5)", "fo.steps.gradient(f.waves, 'auto')",
    "fo.steps.gradient(f.bowl, 0.0)", "fo.steps.gradient(f.bowl, float('nan'))",
    "fo.steps.mirror_descent(f.bowl, 0.1)", "fo.steps.newton_kkt(f.bowl, f.below)",
    "fo.steps.sqp(f.bowl, f.below)", "fo.steps.fdpg()", "fo.steps.admm_qp()",
    "fo.steps.gradient(3, 0.5)", "fo.steps.douglas_rachford(f.prox, f.prox, 1.0)",
    "fo.steps.newton(f.bowl, 0.0)", "fo.steps.douglas_rachford(f.prox, f.prox, relaxation=2.5)",
)  # fmt: skip


def _settings(d: Drawer) -> tuple[tuple[str, Argument], ...]:
    given: list[tuple[str, Argument]] = []
    if d.among(True, False):
        given.append(("adjoint", Source(d.among(*ADJOINTS))))
    if d.among(True, False, False):
        given.append(("on_failure", Source(repr(d.among(*ON_FAILURE)))))
    given.append(("batch_dims", Source(d.among(repr(len(d.batch)), repr(len(d.batch)), "0", "1",
                                               "-1", "9", "None", "True"))))  # fmt: skip
    return tuple(given)


@target("fold")
def _fold(d: Drawer) -> Call:
    c = d.array(d.size(), own=True)
    settings = _settings(d)
    return Call("fold", "fo.fold", (Source(d.among(*STEPS)), c, c), settings, smooth=False)


@target("folded")
def _folded(d: Drawer) -> Call:
    c = d.array(d.size(), own=True)
    given = ", ".join(f"{name}={value!r}" for name, value in _settings(d))
    step, solver = d.among("f.half", "f.grow"), d.among("f.same", "f.as_numpy", "f.solved")
    if d.among(True, False):
        made = f"fo.folded({step}, {given})({solver})"
    else:
        made = f"fo.FoldedLayer({solver}, {step}, {given})"
    return Call("folded", made, (c,))


@target("unroll")
def _unroll(d: Drawer) -> Call:
    c = d.array(d.size(), own=True)
    name = d.among("unroll", "unfold")
    often = (("iterations", Source(d.among("0", "1", "3", "-1", "2.0", "None"))),)
    return Call("unroll", f"fo.{name}", (Source(d.among(*STEPS)), c, c), often, smooth=False)


@target("fixed_point")
def _fixed_point(d: Drawer) -> Call:
    c = d.array(d.size(), own=True)
    given: list[tuple[str, Argument]] = list(_settings(d))
    if d.among(True, False):
        given.append(("method", Source(d.among("'anderson'", "'plain'", "'newton'", "None"))))
    if d.among(True, False, False):
        given.append(("max_iterations", Source(d.among("5", "0", "1", "None"))))
    given.append(("history", Source(d.among("1", "5", "0", "100", "None"))))
    args = (Source(d.among(*STEPS[:12])), c, c)
    return Call("fixed_point", "fo.fixed_point", args, tuple(given), smooth=False)


@target("jacobian")
def _jacobian(d: Drawer) -> Call:
    c = d.array(d.size(), own=True)
    args = (Source(d.among(*STEPS)), c, c)
    dims = (("batch_dims", Source(d.among(repr(len(d.batch)), "0", "1", "9"))),)
    name = d.among("jacobian", "spectral_radius", "diagnose.diagnose")
    return Call("jacobian", f"fo.{name}", args, dims, smooth=False)


@target("solvers.descent")
def _descent(d: Drawer) -> Call:
    n = d.size(1, 3)
    c = d.array(n, own=True)
    start = f"torch.zeros({tuple(c.shape)!r}, dtype=torch.{c.dtype})"
    made = d.among(
        f"fo.solvers.FISTA(f.bowl, f.prox, start={start})",
        f"fo.solvers.ProjectedGradient(f.bowl, f.onto, restarts=2, start={start})",
        f"fo.solvers.SQP(f.bowl, f.below, n={n})",
        f"fo.solvers.SQP(f.waves, f.disc, n={n})",
        f"fo.solvers.Ipopt(f.waves, f.disc, n={n})",
    )
    return Call("solvers.descent", made, (c,), smooth=False)
