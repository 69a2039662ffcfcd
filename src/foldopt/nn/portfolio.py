"""The portfolio of the greatest return at a bounded risk, or at a price for risk, as a layer."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from foldopt._arguments import AUTO, CERTIFY, OnFailure, check_arguments
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.nn._portfolio.adjoint import KKT
from foldopt.nn._portfolio.forward import solve
from foldopt.nn._portfolio.program import benign, checked, scaled, unusable
from foldopt.nn._portfolio.step import Point, mean_variance, risk_bound
from foldopt.step import Step

__all__ = ["Form", "Portfolio", "PortfolioSolution"]

Form = Literal["risk-bound", "mean-variance"]

_STEPS = {
    "risk-bound": Step(risk_bound, symmetric=True, name="KKT", bound=True),
    "mean-variance": Step(mean_variance, symmetric=True, name="KKT", bound=True),
}


class PortfolioSolution(NamedTuple):
    """What :class:`Portfolio` returns with ``multipliers=True``.

    All but the status have gradients.

    Attributes
    ----------
    x
        The weights, ``(*batch, n)``.
    risk
        λ ≥ 0 of the bound on the risk, ``(*batch,)``: what a little more risk would return. None
        in the mean–variance form, which has no such bound.
    budget
        ν of 1ᵀx = 1, ``(*batch,)``.
    bounds
        ζ ≥ 0 of x ≥ 0, ``(*batch, n)``: with λ (or δ/2 in its place), −c + 2λVx + ν1 − ζ = 0.
    status
        :class:`~foldopt.Status` of each sample, ``(*batch,)``.
    """

    x: Tensor
    risk: Tensor | None
    budget: Tensor
    bounds: Tensor
    status: Tensor


class Portfolio(nn.Module):
    r"""Choose weights for n assets, with exact derivatives in returns, covariance and risk.

    With :math:`x \ge 0` and :math:`\mathbf 1^\top x = 1`, the form ``"risk-bound"`` is

    .. math:: x^\star = \arg\max_x c^\top x \quad\text{s.t.}\quad x^\top V x \le \gamma,

    and ``"mean-variance"`` is :math:`\arg\max_x c^\top x - \tfrac\delta2 x^\top V x`.

    Returns and risks of any size are served as they are: nothing need be scaled. Forward: the
    critical line, along which the efficient portfolios lie, is followed from the greatest return
    to the one asked for; a Newton step then takes out its rounding errors. Backward: the step is
    the residual of the optimality conditions, so that I − Φ is a KKT matrix, whose inverse serves
    every cotangent.

    Parameters
    ----------
    form
        ``"risk-bound"`` or ``"mean-variance"``.
    multipliers
        Return a :class:`PortfolioSolution` and not x alone.
    on_failure
        What to do about a sample that has no solution, or whose data are not numbers:
        ``"raise"``, ``"warn"``, or ``"mask"``: its x is NaN and its gradient zero, and the others
        are exact; see :func:`~foldopt.fold`.
    certify
        The thresholds of the certificate, a :class:`~foldopt.Certify`. It is measured on the
        program with returns, V and γ of size one.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    Where an asset only just enters the portfolio, or γ only just binds, x has one-sided derivatives
    only. The derivative given is an element of the generalized Jacobian, and
    :func:`~foldopt.record` says so in the messages of the forward event. Where the portfolio is not
    unique (the same asset twice, or equal returns where risk does not matter), one of the best is
    returned, the record says so, and a loss that depends on which one has no gradient: that is an
    error. If γ is the least risk that there is, no multiplier and no derivative exists, and the
    sample has failed.

    References
    ----------
    arXiv 2301.12047, eq. 20; H. Markowitz, Portfolio Selection (1959), appendix A (the critical
    line).

    Examples
    --------
    Two assets of equal risk, and γ of 0.68 times that: x₁² + (1 − x₁)² = 0.68. Of
    0.68 = γ / V₁₁ the derivative of x₁ = (1 + √(2γ/V₁₁ − 1)) / 2 is 0.5 / 0.6.

    >>> import torch
    >>> import foldopt as fo
    >>> returns = torch.tensor([0.02, 0.01], dtype=torch.float64)
    >>> gamma = torch.tensor(0.68e-4, dtype=torch.float64, requires_grad=True)
    >>> x = fo.nn.Portfolio()(returns, 1e-4 * torch.eye(2).double(), gamma)
    >>> x.detach()
    tensor([0.8000, 0.2000], dtype=torch.float64)
    >>> torch.autograd.grad(x[0], gamma)[0] * 1e-4
    tensor(0.8333, dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        form: Form = "risk-bound",
        multipliers: bool = False,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        if form not in _STEPS:
            raise ValueError(
                f"nn.Portfolio: form must be 'risk-bound' or 'mean-variance', got {form!r}"
            )
        check_arguments(_STEPS[form], AUTO, 1, on_failure, certify)
        self.form: Form = form
        self.multipliers = multipliers
        self.on_failure: OnFailure = on_failure
        self.certify = certify

    @graph_break
    def forward(
        self, returns: Tensor, covariance: Tensor, risk: Tensor | float
    ) -> Tensor | PortfolioSolution:
        """Choose a portfolio, or a batch of them; float32 or float64, on any device.

        Each argument is the same for all samples, or has the batch shape in front; the gradient
        of one that is shared is the sum over the batch. Computed in float64, on their device.

        Parameters
        ----------
        returns
            c, ``(n,)`` or ``(*batch, n)``.
        covariance
            V, positive semidefinite, ``(n, n)`` or ``(*batch, n, n)``; the symmetric part counts.
        risk
            In the form ``"risk-bound"`` γ, the most that xᵀVx may be: above the least risk that a
            portfolio can have. In the form ``"mean-variance"`` δ ≥ 0, the aversion to risk. A
            number, or a tensor ``()`` or ``(*batch,)``.

        Returns
        -------
        Tensor or PortfolioSolution
            x ``(*batch, n)``, or with multipliers and status if asked for at construction.

        Raises
        ------
        FoldError
            If a sample has no solution, with its status; unless ``on_failure`` says otherwise.
        TypeError, ValueError
            If kinds, dtypes or shapes do not fit, or an argument holds NaN or inf (with
            ``on_failure="mask"``, that of one sample makes that sample NONFINITE).
        """
        bounded = self.form == "risk-bound"
        c, V, level, batch = checked(returns, covariance, risk)
        params, units = scaled(c, V, level, bounded)
        adjoint = KKT()
        step = _STEPS[self.form]
        call = prepare(step, params, adjoint, 1, self.on_failure, self.certify, lambda: False)
        status: list[Tensor] = []

        def by_critical_line(
            problem: Problem, _starts: Leaves, tensors: Leaves
        ) -> tuple[Leaves, Tensor]:
            point, seen, problem.messages = self._solve(tensors, bounded, adjoint)
            status[:] = [seen]
            return call.take_solution(point), seen

        point = Point(*run(call, by_critical_line, ()))
        x = point.x.reshape(*batch, returns.shape[-1])
        if not self.multipliers:
            return x
        size = units.size.squeeze(-1)
        lam = point.risk.squeeze(-1) * size / units.risk if bounded else None
        return PortfolioSolution(
            x,
            None if lam is None else lam.reshape(batch),
            (point.budget.squeeze(-1) * size + units.top.squeeze(-1)).reshape(batch),
            (point.bounds * units.size).reshape(x.shape),
            status[0].reshape(batch),
        )

    def _solve(
        self, tensors: Leaves, bounded: bool, adjoint: KKT
    ) -> tuple[Point, Tensor, tuple[str, ...]]:
        """The forward pass on plain tensors."""
        c, V, risk = (block.detach().double() for block in tensors)
        B, n = c.shape
        said = unusable(c, V, risk)
        V, risk = V.expand(B, n, n), risk.expand(B)
        if any(said):
            bad = torch.tensor([bool(text) for text in said], device=c.device)
            if self.on_failure == "raise" or bool(bad.all()):
                raise ValueError(
                    f"nn.Portfolio: {next(filter(None, said))}. Look at where it comes from: a "
                    "network that has diverged, or missing data"
                )
            c, V, risk = benign(c, V, risk, bad)
        answer = adjoint.answer = solve(
            c, V, risk, bounded, said, torch.finfo(tensors[0].dtype).eps
        )
        point = Point(*(part.to(tensors[0]) for part in answer.point))
        return point, answer.status, answer.messages

    def extra_repr(self) -> str:
        """The settings that are not the default."""
        shown = {
            "form": (self.form, "risk-bound"),
            "multipliers": (self.multipliers, False),
            "on_failure": (self.on_failure, "raise"),
        }
        return ", ".join(
            f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual
        )
