"""One sample's program for engines that ask for numbers: values and derivatives as numpy arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._program import Program
from foldopt._tree import flatten, unflatten
from foldopt.solvers._ipopt.sparsity import Pattern, full_pattern, pattern_of

__all__ = ["Oracle", "as_tensors", "detect", "first_sample", "kkt_residual"]

F64 = torch.float64
# Points at which a derivative must be zero to count as zero everywhere.
_POINTS = 4


def as_tensors(params: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays as tensors, wherever they are in the params."""
    leaves, spec = flatten(params)
    # A copy: torch warns of arrays that may not be written to, and shared ones may not.
    return unflatten(
        [torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves], spec
    )


def first_sample(params: tuple[Any, ...], in_dims: Sequence[int | None]) -> tuple[Any, ...]:
    """The params of the first sample as the functions will get them; of none, made up."""
    found = []
    for param, dim in zip(params, in_dims, strict=True):
        leaves, spec = flatten(param)
        rows = [_row(leaf) if dim == 0 else leaf for leaf in leaves]
        found.append(unflatten([_wide(leaf) for leaf in rows], spec))
    return tuple(found)


def _row(leaf: Any) -> Any:
    if not isinstance(leaf, (Tensor, np.ndarray)) or leaf.ndim == 0:
        return leaf
    return leaf[0] if len(leaf) else np.ones(leaf.shape[1:])


def _wide(leaf: Any) -> Any:
    """Floating numbers as float64 on the CPU."""
    if not isinstance(leaf, (Tensor, np.ndarray, np.generic, float)):
        return leaf
    tensor = torch.as_tensor(leaf).detach().cpu()
    return tensor.to(F64) if tensor.is_floating_point() else tensor


def joined(program: Program, params: tuple[Any, ...]) -> Callable[[Tensor], Tensor]:
    """x ↦ [f; g; h], one vector."""

    def values(x: Tensor) -> Tensor:
        f = program.checked_value(program.objective(x, *params)).reshape(1)
        return torch.cat([f, program.inequalities(x, params), program.equalities(x, params)])

    return values


def scaled(program: Program, sigma: float) -> Program:
    """The program with σ f; σ may be zero."""
    if sigma == 1:
        return program
    return dataclasses.replace(program, objective=lambda x, *c: sigma * program.objective(x, *c))


class Oracle:
    """Values, gradients and Hessians of one sample, each computed once a point.

    An exception in the user's functions is kept in ``error``, and what was asked for is NaN from
    then on: engines in C take NaN for the end of a domain, and an exception for the end of the
    world. Whoever runs the engine raises it afterwards.
    """

    def __init__(
        self, program: Program, params: tuple[Any, ...], pattern: Pattern, counts: tuple[int, int]
    ) -> None:
        self.program, self.params, self.pattern, self.counts = program, params, pattern, counts
        self.error: BaseException | None = None
        self._values = _Last(joined(program, params))
        slopes = self._dense_slopes if pattern.jacobian.seeds is None else self._sparse_slopes
        self._slopes = _Last(slopes)

    def value(self, x: np.ndarray) -> float:
        """f(x)."""
        return float(self._safely(self._at, x)[0])

    def constraints(self, x: np.ndarray) -> np.ndarray:
        """[g; h]."""
        return self._safely(self._at, x)[1:]

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """∇f."""
        return self._safely(lambda y: self._slopes(y)[0], x, len(x))

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """The entries of the constraints' Jacobian, in the order of the pattern."""
        return self._safely(lambda y: self._slopes(y)[1], x, len(self.pattern.jacobian.rows))

    def hessian(self, x: np.ndarray, sigma: float, y: np.ndarray) -> np.ndarray:
        """The entries of σ∇²f + Σ yᵢ∇²cᵢ, in the order of the pattern."""
        return self._safely(
            lambda at: self._hessian(at, sigma, y), x, len(self.pattern.hessian.rows)
        )

    # -- inside ---------------------------------------------------------------------------------

    def _at(self, x: np.ndarray) -> np.ndarray:
        return self._values(x).detach().numpy()

    def _safely(
        self, function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, size: int | None = None
    ) -> np.ndarray:
        nothing = np.full(1 + sum(self.counts) if size is None else size, np.nan)
        if self.error is not None:
            return nothing
        try:
            return function(x)
        except BaseException as error:  # also KeyboardInterrupt: it must not cross C code
            self.error = error
            return nothing

    def _dense_slopes(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        function = joined(self.program, self.params)
        rows = torch.func.jacrev(function)(x).detach()
        return rows[0].numpy(), self.pattern.jacobian.pick(
            rows[1:].mT if self.pattern.by_rows else rows[1:]
        )

    def _sparse_slopes(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        entries, seeds = self.pattern.jacobian, self.pattern.jacobian.seeds
        assert seeds is not None
        gradient = self.program.gradient(x, self.params).detach().numpy()

        def constraints(y: Tensor) -> Tensor:
            return torch.cat(
                [self.program.inequalities(y, self.params), self.program.equalities(y, self.params)]
            )

        if self.pattern.by_rows:
            pull = torch.func.vjp(constraints, x)[1]
            products = torch.func.vmap(lambda v: pull(v)[0])(seeds)
        else:
            products = torch.func.vmap(lambda v: torch.func.jvp(constraints, (x,), (v,))[1])(seeds)
        return gradient, entries.pick(products.detach())

    def _hessian(self, x: np.ndarray, sigma: float, y: np.ndarray) -> np.ndarray:
        at, weights = _tensor(x), _tensor(y)
        lam, nu = weights[: self.counts[0]], weights[self.counts[0] :]
        program, entries = scaled(self.program, sigma), self.pattern.hessian
        if entries.seeds is None:
            return entries.pick(program.hessian(at, lam, nu, self.params).detach())

        def slope(z: Tensor) -> Tensor:
            return program.lagrangian_gradient(z, lam, nu, self.params)[0]

        pull = torch.func.vjp(slope, at)[1]  # symmetric: the transpose will do
        return entries.pick(torch.func.vmap(lambda v: pull(v)[0])(entries.seeds).detach())


class _Last:
    """A function that remembers its last point: engines ask for f and g of the same x in turn."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function, self.key, self.found = function, b"", None

    def __call__(self, x: np.ndarray) -> Any:
        key = x.tobytes()
        if key != self.key or self.found is None:
            self.found, self.key = self.function(_tensor(x)), key
        return self.found


def _tensor(x: np.ndarray) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=F64)


def detect(
    program: Program, params: tuple[Any, ...], x: Tensor, m: int, generator: torch.Generator
) -> Pattern:
    """The entries that are zero at several random points, x and params moved, are taken for zero.

    A heuristic: an entry that vanishes on all of these points and not elsewhere (one of a branch
    that none of them takes) is missed. What is not finite counts as an entry, and so does what is
    zero only for these params.
    """
    n = len(x)
    jacobian, hessian = np.zeros((m, n), dtype=bool), np.zeros((n, n), dtype=bool)
    for turn in range(_POINTS):
        size = 10.0 ** (turn - 2)  # near the start, and further away
        at = x + size * torch.randn(n, dtype=F64, generator=generator)
        moved = _moved(params, size, generator)
        rows = torch.func.jacrev(joined(program, moved))(at)[1:].detach()
        g = len(program.inequalities(at, moved))
        y = torch.randn(m, dtype=F64, generator=generator)
        H = program.hessian(at, y[:g], y[g:], moved).detach()
        jacobian |= (rows != 0).numpy()  # NaN != 0
        hessian |= (H != 0).numpy()
    return pattern_of(jacobian, hessian | hessian.T) if n else full_pattern(m, n)


def _moved(params: tuple[Any, ...], size: float, generator: torch.Generator) -> tuple[Any, ...]:
    leaves, spec = flatten(params)
    return unflatten(
        [
            leaf + size * torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
            else leaf
            for leaf in leaves
        ],
        spec,
    )


def kkt_residual(
    x: Tensor,
    slope: Tensor,
    gradient: Tensor,
    g: Tensor,
    h: Tensor,
    lam: Tensor,
    mu: Tensor | None = None,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
) -> Tensor:
    """The largest violation of any first-order condition, relative to its terms; ``(*batch,)``.

    ``slope`` is the gradient of the Lagrangian without bounds. Complementarity is the product of
    multiplier and slack, as an interior-point method has it: of a weakly active constraint both
    are only as small as the square root of that.
    """
    bounds = torch.zeros_like(x) if mu is None else mu
    size = 1 + torch.stack([_most(gradient), _most(slope - gradient), _most(bounds)]).amax(0)
    reach = 1 + _most(x)
    parts = [_most(slope + bounds) / size, _most(g.clamp_min(0)) / reach, _most(h) / reach]
    parts += [_most(lam.clamp_max(0)) / size, _most(lam * g) / size / reach]
    for bound, sign in ((lower, -1), (upper, 1)):
        if bound is None:
            continue
        slack, pull = sign * (bound - x), (sign * bounds).clamp_min(0)
        parts.append(_most((-slack).clamp_min(0)) / reach)
        product = torch.where(torch.isinf(slack), pull * reach[..., None], pull * slack)
        parts.append(_most(product) / size / reach)
    return torch.stack(parts).amax(0)


def _most(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
