"""Calls of proximal operators and projections."""

from __future__ import annotations

import dataclasses

from tests.fuzz.targets import Argument, Call, target
from tests.fuzz.values import Array, Drawer, Source


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
