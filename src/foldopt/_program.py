"""A smooth program min f(x) s.t. g(x) ≤ 0, h(x) = 0 from functions of one sample, vmapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._functions import check_functions, positions_of
from foldopt._tree import flatten, unflatten

__all__ = ["Constraint", "Function", "Program"]

Function = Callable[..., Tensor]
Constraint = Callable[..., Tensor | Sequence[Tensor]]


@dataclasses.dataclass(frozen=True)
class Program:
    """Objective and constraints as plain functions of one sample.

    Attributes
    ----------
    objective
        ``objective(x, *params)`` of x ``(n,)``: one number.
    inequality, equality
        ``inequality(x, *params)``: a vector ``(m,)``, g(x) ≤ 0; None: there is none.
    shared
        The params, by position, that all samples share. The others have a row for each sample.
    name
        For messages.
    """

    objective: Function
    inequality: Constraint | None = None
    equality: Constraint | None = None
    shared: tuple[int, ...] = ()
    name: str = "step"

    @staticmethod
    def of(
        objective: Any, inequality: Any, equality: Any, shared: Sequence[int], name: str
    ) -> Program:
        """A program, its arguments checked."""
        given = {"objective": objective, "inequality": inequality, "equality": equality}
        check_functions(
            **{key: f for key, f in given.items() if key == "objective" or f is not None}
        )
        return Program(objective, inequality, equality, positions_of("shared", shared), name)

    # -- values and derivatives, differentiable -----------------------------------------------

    def values(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """f of each sample, ``(*batch,)``."""
        return self.each(lambda y, *c: self.checked_value(self.objective(y, *c)), x, params)

    def gradient(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """∇f, ``(*batch, n)``."""
        slope = torch.func.grad(lambda y, *c: self.checked_value(self.objective(y, *c)))
        return self.each(slope, x, params)

    def lagrangian_gradient(
        self, x: Tensor, lam: Tensor, nu: Tensor, params: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """∇f + Gᵀλ + Aᵀν, g and h: one reverse pass for each sample."""
        slope = torch.func.grad(self._lagrangian, has_aux=True)
        gradient, (g, h) = self.each(slope, x, params, lam, nu)
        return gradient, g, h

    def constraints(
        self, x: Tensor, params: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """g, G, h and A."""

        def both(y: Tensor, *c: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
            found = self.inequalities(y, c), self.equalities(y, c)
            return found, found

        (G, A), (g, h) = self.each(torch.func.jacrev(both, has_aux=True), x, params)
        return g, G, h, A

    def hessian(self, x: Tensor, lam: Tensor, nu: Tensor, params: tuple[Any, ...]) -> Tensor:
        """∇² of the Lagrangian, ``(*batch, n, n)``."""

        def value(y: Tensor, *rest: Any) -> Tensor:
            return self._lagrangian(y, rest[0], rest[1], *rest[2:])[0]

        slope = torch.func.grad(value)
        H = self.each(torch.func.jacrev(slope), x, params, lam, nu)
        return (H + H.mT) / 2  # symmetric but for rounding

    # -- one sample -----------------------------------------------------------------------------

    def _lagrangian(
        self, x: Tensor, lam: Tensor, nu: Tensor, *params: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        g, h = self.inequalities(x, params), self.equalities(x, params)
        value = self.checked_value(self.objective(x, *params)) + (lam * g).sum() + (nu * h).sum()
        return value, (g, h)

    def inequalities(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """g of one sample, a vector."""
        return self._vector("inequality", self.inequality, x, params)

    def equalities(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """h of one sample, a vector."""
        return self._vector("equality", self.equality, x, params)

    def _vector(self, role: str, function: Any, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        if function is None:
            return x.new_zeros(0)
        value = function(x, *params)
        if isinstance(value, (tuple, list)) and all(isinstance(v, Tensor) for v in value):
            value = torch.cat([v.reshape(-1) for v in value]) if value else x.new_zeros(0)
        if not isinstance(value, Tensor) or value.dim() > 1:
            seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{self.name}: {role}(x, *params) gets one sample, x of shape {tuple(x.shape)}, "
                f"and must return a vector (or a list of tensors); it returned {seen}"
            )
        return value if value.dim() else value.unsqueeze(0)

    def checked_value(self, value: Any) -> Tensor:
        """What the objective returned for one sample, as a scalar; raises if it is not one."""
        if not isinstance(value, Tensor) or value.numel() != 1:
            seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{self.name}: objective(x, *params) gets one sample, x of shape (n,), and must "
                f"return one number; it returned {seen}. Batches are formed by vmap"
            )
        return value.reshape(())

    # -- all samples ----------------------------------------------------------------------------

    def each(
        self, function: Callable[..., Any], x: Tensor, params: tuple[Any, ...], *more: Tensor
    ) -> Any:
        """``function(x, *more, *params)`` of each sample."""
        if x.dim() == 1:
            return function(x, *more, *params)
        dims = (0,) * (1 + len(more)) + self.in_dims(x, params)
        mapped = torch.func.vmap(function, dims)
        if len(x):
            return mapped(x, *more, *params)
        # vmap over nothing fails in many operations: one sample is made up, and dropped again.
        given = [
            _mapped_leaves(_with_one_row, param) if dim == 0 else param
            for param, dim in zip((x, *more, *params), dims, strict=True)
        ]
        return _mapped_leaves(lambda leaf: leaf[:0], mapped(*given))

    def in_dims(self, x: Tensor, params: tuple[Any, ...]) -> tuple[int | None, ...]:
        """For ``vmap``: 0 for a param with a row for each sample, None for the others."""
        if x.dim() != 2:
            raise ValueError(f"{self.name}: x must have shape (n,) or (B, n), got {tuple(x.shape)}")
        count = len(params)
        for position in self.shared:
            if not -count <= position < count:
                raise ValueError(
                    f"{self.name}: shared={self.shared}: there are {count} param(s), and none has "
                    f"number {position}"
                )
        common = {position % count for position in self.shared} if count else set()
        found: list[int | None] = []
        for index, param in enumerate(params):
            leaves = [leaf for leaf in flatten(param)[0] if isinstance(leaf, Tensor)]
            single = all(leaf.dim() == 0 for leaf in leaves)
            if index in common or single:
                found.append(None)
                continue
            for leaf in leaves:
                if leaf.dim() == 0 or leaf.shape[0] != x.shape[0]:
                    raise ValueError(
                        f"{self.name}: param {index} has shape {tuple(leaf.shape)}, and x "
                        f"{tuple(x.shape)}: a param needs a row for each of the {x.shape[0]} "
                        f"samples, or its position in shared=({index},) if all samples share it"
                    )
            found.append(0)
        return tuple(found)


def _mapped_leaves(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    leaves, spec = flatten(tree)
    return unflatten(
        [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec
    )


def _with_one_row(leaf: Tensor) -> Tensor:
    return torch.cat([leaf, leaf.new_ones(1, *leaf.shape[1:])])
