"""Φ = ∂U/∂x and Ψ = ∂U/∂c at a point, as products from one recorded step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._calculus import check_transpose, pullback
from foldopt._tree import Layout, Leaves
from foldopt.status import FoldError

__all__ = ["StepJacobian"]

# How many numbers one batched product may touch: in cache (CPU), or enough to fill it (GPU).
# Measured on two CPU cores, B = 64, n = 200: 0.16 ms a row in tens, 0.25 ms one by one, 0.4 ms
# a hundred at a time.
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 26}


class StepJacobian:
    """Products with Φ, Φᵀ, Ψ and Ψᵀ of one step U(x, c), from one recorded evaluation.

    The step runs once, with its graph recorded; every product is then one pull back through that
    graph. x is seen as a matrix ``(B, n)``: B samples that do not touch one another, so that Φ is
    block diagonal, with B blocks ``(n, n)``.

    Parameters
    ----------
    update
        The step on leaves: ``update(x, params)`` returns leaves of the shapes of ``x``.
    x, params
        Where to differentiate. They are detached first.
    batch_dims
        How many leading dimensions of each leaf of x count the samples.
    wanted
        Which of ``params`` are to be differentiated.
    closed
        ``closed(x, params, v)``: Ψᵀv in closed form. The step is then recorded only for products
        with Φ.

    Examples
    --------
    >>> import torch
    >>> M = torch.tensor([[0.5, 0.1], [0.0, 0.2]])
    >>> step = lambda x, c: (x[0] @ M.T + c[0],)
    >>> at = StepJacobian(step, (torch.zeros(1, 2),), (torch.ones(1, 2),), 1, [True])
    >>> at.vjp(torch.tensor([[1.0, 0.0]]))
    tensor([[0.5000, 0.1000]])
    """

    def __init__(
        self,
        update: Callable[[Leaves, Leaves], Leaves],
        x: Leaves,
        params: Leaves,
        batch_dims: int,
        wanted: Sequence[bool],
        closed: Callable[[Leaves, Leaves, Leaves], Sequence[Tensor | None]] | None = None,
    ) -> None:
        self.layout = Layout(x, batch_dims)
        self.cache: dict[str, Any] = {}  # what linear solvers factor, for the next cotangent
        # Detached: a solution that a fold has returned holds the fold, which holds this.
        x, params = (tuple(leaf.detach() for leaf in leaves) for leaves in (x, params))
        self._update, self._at, self._closed = update, (x, params, wanted), closed
        self._wanted = [index for index, want in enumerate(wanted) if want]
        self._transposed: tuple[Leaves, Leaves] | None = None
        if closed is None:
            _ = self._recorded  # now: the step may fail, and may look at what changes later

    @functools.cached_property
    def _recorded(self) -> tuple[Leaves, Leaves, Leaves]:
        """x and params as leaves of a graph, and U(x, params)."""
        x, params, wanted = self._at
        with torch.enable_grad(), _no_inference_mode():
            x = tuple(_leaf(leaf, True) for leaf in x)
            params = tuple(_leaf(leaf, want) for leaf, want in zip(params, wanted, strict=True))
            return x, params, self._update(x, params)

    @property
    def x(self) -> Leaves:
        return self._recorded[0]

    @property
    def params(self) -> Leaves:
        return self._recorded[1]

    @property
    def value(self) -> Leaves:
        return self._recorded[2]

    @property
    def residual(self) -> Tensor:
        """U(x, c) − x, shape ``(B, n)``, detached."""
        return self.layout.ravel(self.value).detach() - self.layout.ravel(self.x).detach()

    @property
    def scale(self) -> Tensor:
        """‖x‖ for each sample, shape ``(B,)``."""
        return torch.linalg.vector_norm(self.layout.ravel(self.x).detach(), dim=-1)

    def vjp(self, v: Tensor) -> Tensor:
        """Φᵀ v for v of shape ``(*lead, B, n)``."""
        return self._pull(self.value, self.x, v)

    def jvp(self, t: Tensor) -> Tensor:
        """Φ t for t of shape ``(*lead, B, n)``.

        u ↦ Φᵀ u is linear, so that its own transposed product is Φ t: recorded once, used often.
        """
        u, product = self._transposed or self.transpose()
        return self._pull(product, u, t)

    def transpose(self) -> tuple[Leaves, Leaves]:
        """Record u ↦ Φᵀ u, and raise unless uᵀ(Φ t) = (Φᵀu)ᵀ t for two generic vectors.

        An operation whose backward is not itself recorded (``once_differentiable``, numpy inside)
        leaves Φ t and every second derivative without its share, and autograd says nothing.
        """
        if self._transposed is not None:
            return self._transposed
        with torch.enable_grad(), _no_inference_mode():
            zero = tuple(torch.zeros_like(leaf, requires_grad=True) for leaf in self.value)
            self._transposed = zero, pullback(self.value, self.x, zero, create_graph=True)
        u, t = self._generic(0.7548776662466927), self._generic(0.5698402909980532)
        try:
            check_transpose((u,), (self.jvp(t),), (self.vjp(u),), (t,))
        except FoldError:
            self._transposed = None
            raise
        return self._transposed

    def _generic(self, rate: float) -> Tensor:
        """A vector ``(B, n)`` that no structure of Φ is orthogonal to, the same in each sample.

        A fixed irrational sequence: random enough, no generator touched, the same on each run.
        """
        like = self.x[0]
        position = torch.arange(self.layout.n, device=like.device, dtype=torch.float64)
        # The exponentials, for which no mean or difference of equally spaced entries cancels.
        row = torch.exp(torch.frac(position * rate + 0.1)).to(like.dtype)
        return row.expand(self.layout.samples, self.layout.n).contiguous()

    def params_vjp(self, v: Tensor) -> list[Tensor | None]:
        """Ψᵀ v: one tensor for each parameter, None for those not wanted; v is ``(B, n)``."""
        if self._closed is not None:
            x, params, _ = self._at
            return list(self._closed(x, params, self.layout.unravel(v)))
        targets = [self.params[index] for index in self._wanted]
        grads = pullback(self.value, targets, self.layout.unravel(v))
        found: list[Tensor | None] = [None] * len(self.params)
        for index, grad in zip(self._wanted, grads, strict=True):
            found[index] = grad
        return found

    def dense(self) -> Tensor:
        """Φ, shape ``(B, n, n)``, by n products with Φᵀ."""
        samples, n = self.layout.samples, self.layout.n
        like = self.x[0]
        if samples * n * n <= _CHUNK["cpu"]:
            unit = torch.eye(n, dtype=like.dtype, device=like.device).unsqueeze(1)
            return self.vjp(unit.expand(n, samples, n)).transpose(0, 1).contiguous()
        index = torch.arange(n, device=like.device)
        return self.rows(index.expand(samples, n))

    def rows(self, index: Tensor, valid: Tensor | None = None) -> Tensor:
        """Some rows of Φ, sample by sample.

        Parameters
        ----------
        index
            Which, integers of shape ``(B, k)``.
        valid
            Boolean, shape ``(B, k)``: where False, a row of zeros takes the place.

        Returns
        -------
        Tensor
            Shape ``(B, k, n)``: row ``index[b, j]`` of the Φ of sample b at ``[b, j]``.
        """
        samples, k = index.shape
        n = self.layout.n
        like = self.x[0]
        ones = like.new_ones(samples, k, 1) if valid is None else valid.to(like.dtype).unsqueeze(-1)
        out = like.new_empty(samples, k, n)
        chunk = self._chunk()
        for begin in range(0, k, chunk):
            part = slice(begin, min(begin + chunk, k))
            unit = like.new_zeros(part.stop - begin, samples, n)
            unit.scatter_(
                -1, index[:, part].T.unsqueeze(-1), ones[:, part].transpose(0, 1).contiguous()
            )
            out[:, part] = self.vjp(unit).transpose(0, 1)
        return out

    def probe(self) -> Tensor | None:
        """Φ r, shape ``(B, n)``, for one generic r that is the same in each sample.

        It is zero in a component exactly where that row of Φ is zero, but for a set of r of measure
        zero. Projections and proximal operators make such rows: a coordinate held by its bound does
        not move. None if the step cannot be differentiated twice.
        """
        try:
            return self.jvp(self._generic(0.6180339887498949))
        except RuntimeError:
            return None

    def _pull(self, outputs: Leaves, inputs: Leaves, v: Tensor) -> Tensor:
        """Pull v of shape ``(*lead, B, n)`` back through a recorded graph."""
        if v.dim() == 2:
            return self.layout.ravel(pullback(outputs, inputs, self.layout.unravel(v)))

        def pull(*cotangents: Tensor) -> Leaves:
            return pullback(outputs, inputs, cotangents)

        rows = v.reshape(-1, *v.shape[-2:])
        chunk = self._chunk()
        if chunk < len(rows):
            parts = [self._pull(outputs, inputs, part) for part in rows.split(chunk)]
            return torch.cat(parts).reshape(v.shape)
        if len(rows) > 2:
            try:
                grads = torch.func.vmap(pull)(*self.layout.unravel(rows))
                return self.layout.ravel(grads).reshape(v.shape)
            except RuntimeError:
                pass  # an operation without a batching rule: one cotangent at a time
        products = [self._pull(outputs, inputs, row) for row in rows]
        return torch.stack(products).reshape(v.shape) if products else torch.zeros_like(v)

    def _chunk(self) -> int:
        """How many cotangents to pull back at once."""
        like = self.x[0]
        limit = _CHUNK.get(like.device.type, _CHUNK["cuda"])
        return max(1, limit // max(1, self.layout.samples * self.layout.n))


def _no_inference_mode() -> contextlib.AbstractContextManager:
    """Leave inference mode, where no graph is recorded; entering this costs, so only if needed."""
    if torch.is_inference_mode_enabled():
        return torch.inference_mode(False)
    return contextlib.nullcontext()


def _leaf(tensor: Tensor, differentiate: bool) -> Tensor:
    """A leaf of the recorded graph that shares the memory of ``tensor``."""
    leaf = tensor.clone() if tensor.is_inference() else tensor.detach()
    return leaf.requires_grad_() if differentiate else leaf
