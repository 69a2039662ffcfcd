"""Calls of the fold, of its relatives, and of descent."""

from __future__ import annotations

from tests.fuzz.targets import ON_FAILURE, Argument, Call, target
from tests.fuzz.values import Drawer, Source

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
