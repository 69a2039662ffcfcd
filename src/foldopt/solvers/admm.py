"""ADMM with an exact finish for batches of convex quadratic programs, in PyTorch."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.operators._qp_arguments import blocks_of, check_convex
from foldopt.operators._solve_qp import QP, solve_qp
from foldopt.solvers._momentum import verdicts
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._qp.arguments import INFINITE, NAMES
from foldopt.solvers._run.arrays import check_numbers
from foldopt.solvers._settings import Settings
from foldopt.status import Solution, Status

__all__ = ["ADMM"]

_ITERATIONS = 10_000
_WITH_X = (Status.CONVERGED, Status.MAX_ITERATIONS)


@dataclasses.dataclass(frozen=True, eq=False)
class ADMM(Settings):
    r"""Solve convex quadratic programs by ADMM and an active-set finish, all samples at once.

    .. math:: \min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad
              G x \le h,\; A x = b,\; l \le x \le u.

    ADMM finds out which constraints are active; one KKT solve on those gives the solution to
    rounding. It needs nothing but PyTorch, and runs on the device of p, in its dtype: for batches
    of small programs, on a GPU above all.

    Parameters
    ----------
    max_iterations
        Of ADMM; None: 10 000.
    rtol, atol, time_limit, threads, executor, warm_start
        Of no effect: an answer is exact to rounding, or not CONVERGED; the samples share their
        iterations.

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> p = torch.tensor([[-1.0, -3.0]])
    >>> solution = solvers.ADMM()(torch.eye(2), p, upper=torch.tensor([2.0, 2.0]))
    >>> solution.x
    tensor([[1., 2.]])
    >>> solution.multipliers.bounds
    tensor([[0., 1.]])
    """

    def __call__(
        self,
        Q: Tensor,
        p: Tensor,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        lower: Tensor | float | None = None,
        upper: Tensor | float | None = None,
    ) -> Solution:
        """Solve every sample.

        Parameters
        ----------
        Q, p
            Positive semidefinite, ``(n, n)`` or ``(*batch, n, n)``; and ``(*batch, n)``.
        G, h
            ``(m, n)`` or ``(*batch, m, n)``, and ``(m,)`` or ``(*batch, m)``, +inf where there is
            no constraint; None: no inequalities.
        A, b
            ``(k, n)`` or ``(*batch, k, n)``, and ``(k,)`` or ``(*batch, k)``; None: no equalities.
        lower, upper
            ``(n,)`` or ``(*batch, n)``, ±inf where there is none, or one number; None: none at
            all.

        Returns
        -------
        Solution
            x ``(*batch, n)``, the status of each sample, and
            :class:`~foldopt.solvers.Multipliers`.

        Raises
        ------
        TypeError, ValueError
            If shapes or kinds do not fit, a block holds NaN (or an infinite value where none may
            be), or Q is not positive semidefinite.
        """
        check_numbers((Q, p, G, h, A, b, lower, upper), NAMES, INFINITE)
        if isinstance(p, Tensor) and p.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"solvers.ADMM: p is {p.dtype} of shape {tuple(p.shape)}. Its factors need float32 "
                "or float64, and nothing is cast unasked: pass .float()"
            )
        given = (Q, p, G, h, A, b)
        blocks = [part.detach() if isinstance(part, Tensor) else part for part in given]
        try:
            (Q, p, G, h, A, b), batch = blocks_of(*blocks)  # pyright: ignore[reportArgumentType]
            Q = (Q + Q.mT) / 2
            check_convex(Q)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("quadratic_program", "solvers.ADMM")) from None
        n, m = p.shape[-1], h.shape[-1]
        eye = torch.eye(n, dtype=p.dtype, device=p.device).expand(len(p), n, n)
        rows, rights = [G], [h]
        for name, bound, sign in (("lower", lower, -1), ("upper", upper, 1)):
            if bound is not None:
                rows.append(sign * eye)
                rights.append(sign * _rows_of(name, bound, p, batch))
        qp = QP(Q, p, torch.cat(rows, -2), torch.cat(rights, -1), A, b)
        limit = _ITERATIONS if self.max_iterations is None else self.max_iterations
        with torch.no_grad():
            (x, lam, nu), status = solve_qp(qp, None, limit)
        mu = torch.zeros_like(p)
        at = m
        for bound, sign in ((lower, -1), (upper, 1)):
            if bound is not None:
                mu = mu + sign * lam[:, at : at + n]
                at += n
        known = torch.zeros_like(status, dtype=torch.bool)
        for code in _WITH_X:
            known = known | (status == int(code))
        parts = [
            torch.where(known[:, None], part, torch.nan).reshape(*batch, part.shape[-1])
            for part in (x, lam[:, :m], nu, mu)
        ]
        return Solution(
            parts[0], status.reshape(batch), Multipliers(*parts[1:]), None, verdicts(status)
        )


def _rows_of(name: str, bound: Tensor | float, p: Tensor, batch: torch.Size) -> Tensor:
    """A bound for each sample, ``(B, n)``."""
    if isinstance(bound, (int, float)) and not isinstance(bound, bool):
        return torch.full_like(p, bound)
    if not isinstance(bound, Tensor) or bound.dtype != p.dtype or bound.device != p.device:
        seen = f"{bound.dtype} on {bound.device}" if isinstance(bound, Tensor) else type(bound)
        raise TypeError(
            f"solvers.ADMM: {name} must be a tensor of {p.dtype} on {p.device}, as p is, got {seen}"
        )
    n = p.shape[-1]
    if tuple(bound.shape) not in ((n,), (*batch, n)):
        raise ValueError(
            f"solvers.ADMM: {name} must have shape {(n,)} or {(*batch, n)}, got "
            f"{tuple(bound.shape)}"
        )
    return bound.detach().expand(*batch, n).reshape(len(p), n)
