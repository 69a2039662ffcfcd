"""One call of fold: its step, its solver, its options, and the numbers of both passes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt import certify as checks
from foldopt._tree import Layout, Leaves, identity_of
from foldopt.certify import Certify
from foldopt.jacobian import StepJacobian
from foldopt.linear import LinearOperator, solve
from foldopt.status import Event, FoldError, FoldWarning, Record, Status

Update = Callable[[Leaves, Leaves], Leaves]
Closed = Callable[[Leaves, Leaves, Leaves], Sequence[Tensor | None]]
Forward = Callable[["Problem", Leaves, Leaves], tuple[Leaves, Tensor | None]]


class Options(NamedTuple):
    """What the user chose, and what was seen on the way in."""

    adjoint: Any
    batch_dims: int
    on_failure: str
    certify: Certify
    record: Record | None
    symmetric: bool  # the step says that its Φ is symmetric
    newton: bool  # the step says that its Φ is zero
    names: tuple[str, ...]  # of the params' leaves; "" for those that may go unused
    wanted: tuple[bool, ...]  # the leaves that may be differentiated
    recording: bool  # whether autograd is on
    closed: Closed | None  # Ψᵀv without a graph, if the step has that
    look_for_mixing: Callable[[], bool]
    nested: bool  # this fold is part of another one's step
    x_dtype: Callable[[], torch.dtype | None]  # of x as the user sees it, once it is known


class Problem:
    """What a fold knows, handed from its forward pass to its backward pass.

    All numerical work happens here, on plain tensors: inside ``autograd.Function.forward`` every
    ``torch.func`` level has been peeled off.

    Parameters
    ----------
    update
        The step on leaves.
    forward
        ``forward(problem, starts, params)`` finds x and, if it knows, each sample's status.
    options
        See :class:`Options`.
    base
        The problem of which this one is a copy for many right-hand sides at once.
    """

    def __init__(
        self, update: Update, forward: Forward, options: Options, base: Problem | None = None
    ) -> None:
        self.update = update
        self.forward = forward
        self.options = options
        self.failed: Tensor | None = None  # samples masked out, boolean (B,)
        self.messages: tuple[str, ...] = ()  # what the solver said of each sample
        # ‖U(x) − x‖ / (1 + ‖x‖) of each sample, from a solver that has computed just that.
        self.residual: Tensor | None = None
        self._base = base
        self._children: dict[tuple, Problem] = {}
        self._recorded: tuple[tuple, StepJacobian] | None = None

    def layout(self, x: Leaves) -> Layout:
        return Layout(x, self.options.batch_dims)

    # -- the forward pass -------------------------------------------------------------------

    def run(self, starts: Leaves, params: Leaves) -> Leaves:
        """Solve, and certify that the step leaves the solution where it is."""
        options = self.options
        begin = time.perf_counter()
        x, reported = self.forward(self, starts, params)
        layout = self.layout(x)
        error_above, warn_above = options.certify.limits(options.x_dtype() or x[0].dtype)
        jacobian, relative = None, self.residual
        if options.recording and options.closed is None:
            jacobian = StepJacobian(self.update, x, params, options.batch_dims, options.wanted)
            relative = checks.fixed_point_residual(
                layout.ravel(jacobian.value).detach(), layout.ravel(x)
            )
        elif relative is None:
            value = layout.ravel(self.update(x, params))
            relative = checks.fixed_point_residual(value, layout.ravel(x))
        if reported is not None:
            reported = checks.reported_status(reported, layout.batch).to(relative.device)
        # One look at the worst sample says that all is well; NaN fails every comparison.
        worst = float(relative.max()) if relative.numel() else 0.0
        status = reported
        if not worst <= error_above:
            status = checks.forward_status(relative, reported, error_above)
        if options.record is not None:
            zeros = torch.zeros_like(relative, dtype=torch.int64)
            seconds = time.perf_counter() - begin
            known = zeros if status is None else status
            name = "solver and certificate"
            event = Event("forward", name, known, zeros, relative, seconds, self.messages)
            options.record.events.append(event)
        if status is not None and bool(status.any()) and bool(Status.failed(status).any()):
            poisoned = any(
                leaf.is_floating_point() and not torch.isfinite(leaf).all() for leaf in params
            )
            message = checks.forward_message(status, relative, error_above, poisoned, self.messages)
            checks.report(options.on_failure, message, status)
            if options.on_failure == "mask":
                self.failed = Status.failed(status)
        if jacobian is not None:
            if self.failed is not None:
                jacobian = self._record(x, params)
            checks.check_recorded(jacobian, options.names, options.look_for_mixing())
            self._recorded = (identity_of(x, params), jacobian)
        if not worst <= warn_above:
            near = (relative > warn_above) & (relative <= error_above)
            near = near if self.failed is None else near & ~self.failed  # reported already
            if bool(near.any()):
                message = checks.near_message(torch.where(near, relative, 0), warn_above)
                warnings.warn(message, FoldWarning, stacklevel=2)
        return x

    # -- the linear solves ------------------------------------------------------------------

    def solve(
        self,
        transpose: bool,
        b: Tensor,
        x: Leaves,
        params: Leaves,
        jacobian: StepJacobian | None = None,
    ) -> Tensor:
        """v of (I − Φᵀ) v = b, or t of (I − Φ) t = b; b is ``(*lead, B, n)``."""
        if self._base is not None:
            rows = len(x[0])
            lead = b.reshape(*b.shape[:-2], rows, b.shape[-2] // max(rows, 1), b.shape[-1])
            one = tuple(leaf[0] for leaf in x)
            return self._base.solve(transpose, lead, one, params).reshape(b.shape)
        if calculus.batched_the_old_way(b):
            raise FoldError(
                "fold: is_grads_batched=True and jacobian(..., vectorize=True) use a vmap that "
                "cannot enter a custom function. Use torch.func.jacrev, or torch.func.vmap over "
                "torch.func.vjp."
            )
        if torch.is_autocast_enabled(b.device.type):
            with torch.autocast(b.device.type, enabled=False):
                return self._solve(transpose, b, jacobian or self.jacobian(x, params))
        return self._solve(transpose, b, jacobian or self.jacobian(x, params))

    def _solve(self, transpose: bool, b: Tensor, jacobian: StepJacobian) -> Tensor:
        options = self.options
        begin = time.perf_counter()
        if not transpose and jacobian.layout.n * jacobian.layout.samples:
            jacobian.transpose()  # forward mode or a second derivative: can this step give it?
        asked = b
        if self.failed is not None:
            b = torch.where(self.failed.unsqueeze(-1), 0, b)
        operator = LinearOperator(jacobian, transpose, options.symmetric, options.newton)
        solution = solve(options.adjoint, operator, b)
        status = solution.status
        if self.failed is not None:
            status = torch.where(self.failed, int(Status.NOT_FIXED), status)
        if options.record is not None:
            kind, seconds = "adjoint" if transpose else "tangent", time.perf_counter() - begin
            event = Event(
                kind, solution.method, status, solution.iterations, solution.residual, seconds
            )
            options.record.events.append(event)
        if not solution.solved:
            message = checks.backward_message(
                solution.status, solution.residual, solution.method, transpose
            )
            checks.report(options.on_failure, message, solution.status)
        elif self.failed is None:
            return solution.value
        if options.on_failure != "mask":
            return solution.value
        # A zero inside another fold's step would be a wrong derivative there, which nobody sees:
        # NaN makes that fold's sample fail. But what was not asked for is zero in any case.
        lost = torch.nan if options.nested else 0.0
        masked = torch.where((asked == 0).all(-1, keepdim=True), 0.0, lost).to(b.dtype)
        return torch.where(Status.failed(status).unsqueeze(-1), masked, solution.value)

    def jacobian(self, x: Leaves, params: Leaves) -> StepJacobian:
        """The step recorded at (x, params): the forward pass's recording where it is that one."""
        key = identity_of(x, params)
        if self._recorded is None or self._recorded[0] != key:
            self._recorded = (key, self._record(x, params))
        return self._recorded[1]

    def _record(self, x: Leaves, params: Leaves) -> StepJacobian:
        x, params = self.tamed(x, params)
        options = self.options
        wanted, closed = options.wanted, options.closed
        return StepJacobian(self.update, x, params, options.batch_dims, wanted, closed)

    def tamed(self, x: Leaves, params: Leaves) -> tuple[Leaves, Leaves]:
        """Under ``on_failure="mask"``, put a good sample in the place of each failed one.

        The failed samples' cotangents are zero, but 0 · NaN is NaN, and would reach every
        parameter that the batch shares. Written without a look at any value, for ``torch.func``.
        """
        if self.options.on_failure != "mask":
            return x, params
        layout = self.layout(x)
        if layout.samples == 0:
            return x, params

        def batched(leaf: Tensor) -> bool:
            return leaf.is_floating_point() and leaf.shape[: len(layout.batch)] == layout.batch

        def rows(leaf: Tensor) -> Tensor:
            return leaf.reshape(layout.samples, -1)

        # A limit may be infinite in a good sample, a solution may not.
        lost = [~torch.isfinite(rows(leaf)).all(-1) for leaf in x]
        lost += [torch.isnan(rows(leaf)).any(-1) for leaf in params if batched(leaf)]
        failed = torch.stack(lost).any(0)
        if self.failed is not None:
            failed = failed | self.failed
        good = (~failed).to(torch.int8).argmax().reshape(1)

        def patch(leaf: Tensor, where: Tensor) -> Tensor:
            flat = rows(leaf)
            other = flat.index_select(0, good)
            other = torch.where(torch.isfinite(other), other, 1)  # no good sample: anything finite
            return torch.where(where.unsqueeze(-1), other, flat).reshape(leaf.shape)

        def bad(leaf: Tensor) -> Tensor:
            return failed & ~torch.isfinite(rows(leaf)).all(-1)

        return (
            tuple(patch(leaf, failed) for leaf in x),
            tuple(patch(leaf, bad(leaf)) if batched(leaf) else leaf for leaf in params),
        )

    # -- torch.func.vmap --------------------------------------------------------------------

    def child(self, size: int, mapped: tuple[bool, ...], only_right_hand_side: bool) -> Problem:
        """The same problem with one more batch dimension in front.

        Parameters
        ----------
        size
            Of that dimension.
        mapped
            Which of the params have it; x always does.
        only_right_hand_side
            x is the same along the new dimension, only cotangents differ: solve with the one
            recorded step, many right-hand sides.
        """
        key = (size, mapped, only_right_hand_side)
        if key not in self._children:
            in_dims = tuple(0 if yes else None for yes in mapped)
            options = self.options._replace(
                batch_dims=self.options.batch_dims + 1,
                closed=None,
                look_for_mixing=lambda: False,
            )
            self._children[key] = Problem(
                calculus.mapped(self.update, in_dims),
                self._mapped_forward(size, mapped),
                options,
                self if only_right_hand_side else None,
            )
        return self._children[key]

    def _mapped_forward(self, size: int, mapped: tuple[bool, ...]) -> Forward:
        if getattr(self.forward, "torch_native", False):
            return self.forward  # an iteration of the (mapped) update itself: all at once

        def forward(
            problem: Problem, starts: Leaves, params: Leaves
        ) -> tuple[Leaves, Tensor | None]:
            # A blackbox knows nothing of the new dimension: one call for each entry.
            results = []
            for i in range(size):
                pairs = zip(params, mapped, strict=True)
                row = tuple(leaf[i] if yes else leaf for leaf, yes in pairs)
                results.append(self.forward(self, tuple(leaf[i] for leaf in starts), row))
            x = tuple(torch.stack(leaves) for leaves in zip(*(r[0] for r in results), strict=True))
            statuses = [r[1] for r in results if r[1] is not None]
            if not statuses:
                return x, None
            blank = torch.zeros_like(statuses[0])
            return x, torch.stack([blank if r[1] is None else r[1] for r in results])

        return forward
