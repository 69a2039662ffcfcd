"""FDPG: total variation and its kin by accelerated descent on the dual, in PyTorch."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt import prox as operators
from foldopt._functions import check_functions
from foldopt.operators._inverse import matvec
from foldopt.solvers._momentum import accelerate, verdicts
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._settings import Settings
from foldopt.solvers._start import HALF, start_of
from foldopt.status import Solution, Status

__all__ = ["FDPG"]


@dataclasses.dataclass(frozen=True, eq=False)
class FDPG(Settings):
    r"""Minimize :math:`\tfrac12\|x - d\|^2 + g(D x)` by the fast dual proximal gradient method.

    The iteration is that of :func:`~foldopt.steps.fdpg`, on the dual variable w with
    :math:`x = d + D^\top w`, made faster by Nesterov's extrapolation with restarts. All samples
    run at once, on the device of d, in its dtype.

    Parameters
    ----------
    prox
        ``prox(y, factor, *rest)``: the proximal operator of ``factor`` times g, with ``factor`` of
        shape ``()`` or ``(*batch, 1)``. None: g = λ‖·‖₁, with rest = (weight,).
    restart
        Whether momentum starts anew where it leads uphill.
    rtol, atol
        A sample stops once ‖U(w) − w‖ ≤ atol + rtol (1 + ‖w‖); None: 1.1e-11 in float64, 1.4e-5 in
        float32, and 0.
    max_iterations
        None: 10 000.
    time_limit
        Seconds for the whole batch; None: no limit.
    threads, executor, warm_start
        Of no effect: the samples share their iterations.

    References
    ----------
    A. Beck, M. Teboulle, Oper. Res. Lett. 42 (2014), 1–6. B. O'Donoghue, E. Candès, Found. Comput.
    Math. 15 (2015), 715–732 (restarts).

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> d, D = torch.tensor([[0.0, 4.0]]), torch.tensor([[-1.0, 1.0]])
    >>> solvers.FDPG()(d, D, 1.0).x.round(decimals=3)
    tensor([[1., 3.]])
    """

    prox: Callable[..., Tensor] | None = None
    _: dataclasses.KW_ONLY
    restart: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prox is not None:
            check_functions(prox=self.prox)

    def __call__(self, d: Tensor, D: Tensor, *rest: Any) -> Solution:
        """Solve every sample.

        Parameters
        ----------
        d
            ``(*batch, n)``.
        D
            ``(m, n)`` or ``(*batch, m, n)``.
        *rest
            What ``prox`` takes; without one, the weight λ ≥ 0: a number, or a tensor that
            broadcasts to ``(*batch, m)``.

        Returns
        -------
        Solution
            x ``(*batch, n)``, the status of each sample, and multipliers. Those of D x = z are
            ``multipliers.equality``, ``(*batch, m)``: they are −w.

        Raises
        ------
        TypeError, ValueError
            If shapes or kinds do not fit.
        """
        if not isinstance(d, Tensor) or not isinstance(D, Tensor) or not d.is_floating_point():
            raise TypeError("solvers.FDPG: d and D must be floating tensors, call it as (d, D, …)")
        if D.dim() < 2 or D.shape[-1] != d.shape[-1] or D.shape[:-2] not in ((), d.shape[:-1]):
            raise ValueError(
                f"solvers.FDPG: D must have shape (m, n) or (*batch, m, n) beside d of shape "
                f"(*batch, n), got D {tuple(D.shape)} and d {tuple(d.shape)}"
            )
        zero = d.new_zeros(*d.shape[:-1], D.shape[-2])
        w, (d, D, *others) = start_of("solvers.FDPG", zero, (d, D, *rest), HALF)
        if self.prox is None:
            check_weight("solvers.FDPG", (d, D, *others))
        operator = _l1 if self.prox is None else self.prox
        usable = torch.isfinite(D).all()
        L = torch.linalg.matrix_norm(torch.where(usable, D, 0), 2).square()
        L = torch.where(L > 0, L, 1)
        L = L[..., None] if L.dim() else L

        def step(w: Tensor) -> Tensor:
            Du = matvec(D, d + matvec(D.mT, w))
            return w - Du / L + operator(Du - L * w, L, *others) / L

        with torch.no_grad():
            w, status = accelerate(step, w, self, self.restart)
            x = d + matvec(D.mT, w)
        lost = (status == Status.NONFINITE)[..., None]
        x, w = torch.where(lost, torch.nan, x), torch.where(lost, torch.nan, w)
        multipliers = Multipliers(w[..., :0], -w, torch.zeros_like(x))
        return Solution(x, status, multipliers, None, verdicts(status))


def check_weight(name: str, params: tuple[Any, ...]) -> None:
    """Raise unless what comes after d and D is one weight: a number, or numbers that fit to w."""
    d, D, *rest = params
    if len(rest) != 1:
        raise TypeError(
            f"{name}: without a prox, call it as (d, D, weight); got {len(rest)} arguments after D"
        )
    weight: Any = rest[0]
    wanted = (*d.shape[:-1], D.shape[-2])
    if isinstance(weight, np.ndarray) and weight.dtype.kind in "fiu":
        weight = torch.as_tensor(weight)
    if not isinstance(weight, Tensor):
        if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)):
            raise TypeError(
                f"{name}: weight must be a number or a tensor, got {type(weight).__name__}"
            )
        if not 0 <= weight <= sys.float_info.max:
            raise ValueError(f"{name}: weight must be 0 or more, and finite; got {weight!r:.20}")
        return
    if weight.layout != torch.strided:
        raise TypeError(f"{name}: weight must be dense, got {weight.layout}: pass .to_dense()")
    seen = tuple(weight.shape)
    ends = zip(reversed(seen), reversed(wanted), strict=False)
    if len(seen) > len(wanted) or any(one not in (1, other) for one, other in ends):
        raise ValueError(
            f"{name}: weight must broadcast to {wanted}, the shape of D x, beside d of shape "
            f"{tuple(d.shape)} and D of shape {tuple(D.shape)}; got {seen}"
        )


def _l1(y: Tensor, factor: Tensor, weight: Tensor | float) -> Tensor:
    return operators.l1(y, factor * weight)
