"""AC optimal power flow as a layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foldopt._arguments import AUTO, CERTIFY, OnFailure, check_arguments
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.nn._acopf.arguments import checked
from foldopt.nn._acopf.forward import Engine
from foldopt.nn._acopf.grid import Grid
from foldopt.nn._acopf.network import Network
from foldopt.nn._acopf.read import read_grid
from foldopt.nn._nlp.adjoint import KKT, Degenerate
from foldopt.nn._nlp.engines import Limits
from foldopt.nn._nlp.model import Point
from foldopt.nn._nlp.step import update_of
from foldopt.solvers._run.executors import ExecutorLike
from foldopt.step import Step

__all__ = ["ACOPF", "ACOPFSolution", "Dispatch", "Grid", "read_grid"]


class Dispatch(NamedTuple):
    """What :class:`ACOPF` returns.

    Attributes
    ----------
    va, vm
        Angles (radians) and magnitudes (per unit) of the buses' voltages, ``(*batch, n)``.
    pg, qg
        Active and reactive power of the generators, MW and Mvar, ``(*batch, g)``.
    """

    va: Tensor
    vm: Tensor
    pg: Tensor
    qg: Tensor


class ACOPFSolution(NamedTuple):
    """What :class:`ACOPF` returns with ``prices=True``.

    Attributes
    ----------
    va, vm, pg, qg
        As in a :class:`Dispatch`.
    active_prices, reactive_prices
        What one more MW, or Mvar, of load at a bus would cost, $/h, ``(*batch, n)``: the
        multipliers of the balances. They have derivatives too.
    congestion
        What one more MVA of a branch's limit would save at its two ends, $/h, ``(*batch, l, 2)``.
    status
        :class:`~foldopt.Status` of each sample, ``(*batch,)``.
    """

    va: Tensor
    vm: Tensor
    pg: Tensor
    qg: Tensor
    active_prices: Tensor
    reactive_prices: Tensor
    congestion: Tensor
    status: Tensor


class ACOPF(nn.Module):
    r"""Dispatch a grid at least cost, with derivatives in all loads and costs.

    .. math:: \min_{v, S^g} \sum_i a_i (p^g_i)^2 + b_i p^g_i + c_i \quad\text{s.t.}\quad
        S^g - S^d = V \overline{Y V},\; |S_f|, |S_t| \le r,\;
        \text{limits of } |V|, p^g, q^g, \theta_f - \theta_t,

    in polar form with z = (va, vm, pg, qg), the angle of the slack bus given. Shunts, taps, phase
    shifters and several generators at a bus are all there. The program is not convex: Ipopt finds
    a local solution with sparse derivatives that are written out, Newton's method on the active set
    makes it exact. Backward: Newton's step on the optimality conditions is folded; its sparse KKT
    matrix was factored once by then.

    Parameters
    ----------
    grid
        A :class:`Grid`, or what :func:`read_grid` takes: ``"case57"``, ``"pglib_opf_case57_ieee"``,
        the path of a MATPOWER file, or its tables.
    prices
        Return an :class:`ACOPFSolution`, with the nodal prices, and not a :class:`Dispatch`.
    degenerate, damping
        What to do where the solution has no derivative that could be trusted, as in
        :class:`~foldopt.nn.NLP`: ``"raise"``, ``"least-squares"`` or ``"damped"``.
    rtol, max_iterations, time_limit, options
        Ipopt's: its ``tol`` (None: 1e-9), iterations (None: 500) and seconds for a sample, and
        options by their own names.
    executor
        Who solves the samples of a batch, see :func:`~foldopt.solvers.solve_batch`.
    on_failure
        What to do about a sample that is not solved: ``"raise"``, ``"warn"``, or ``"mask"``: its
        gradient is zero, its z the solver's last or NaN, and the others are exact; see
        :func:`~foldopt.fold`.
    certify
        The thresholds of the certificate, a :class:`~foldopt.Certify`.

    Attributes
    ----------
    grid
        The grid: its loads and costs are what a call takes where it is not given any.

    Raises
    ------
    ImportError
        If a package that holds the grid, or Ipopt, is not installed.
    TypeError, ValueError
        If an argument is not of its kind, or there is no such grid.

    Notes
    -----
    What :class:`~foldopt.nn.NLP` says of local solutions holds here: one that is not regular
    (limits that are only just active, or dependent; no curvature in some direction, as where two
    generators at one bus have the same linear costs) is told in the record, and has a derivative
    only as ``degenerate`` says. INFEASIBLE means that Ipopt found no feasible point.

    Reactive power costs nothing: generators at one bus share it in proportion to the widths of
    their limits, since only its sum is determined.

    Limits of apparent power are posed as (\|S\|² − r²) / 2r ≤ 0; their multipliers are those of
    \|S\| ≤ r. A limit that those of the voltages ensure is left out.

    References
    ----------
    arXiv 2312.17394, the experiment with AC optimal power flow; S. Frank, S. Rebennack, IIE
    Transactions 48 (2016), 1172–1197 (the program); A. Fiacco, Introduction to Sensitivity and
    Stability Analysis in Nonlinear Programming (1983).

    Examples
    --------
    What a MW of load at each bus adds to the cost, by folding, is its price:

    >>> import torch
    >>> from foldopt.nn.acopf import ACOPF
    >>> layer = ACOPF("case9", prices=True)
    >>> pd = torch.tensor(layer.grid.pd, requires_grad=True)
    >>> found = layer(pd)
    >>> layer.cost(found.pg).backward()
    >>> torch.allclose(pd.grad, found.active_prices, rtol=1e-9)
    True
    >>> found.active_prices[:3]
    tensor([24.7557, 24.0345, 24.0759], dtype=torch.float64, grad_fn=...)
    """

    def __init__(
        self,
        grid: Any,
        *,
        prices: bool = False,
        degenerate: Degenerate = "raise",
        damping: float = 1e-4,
        rtol: float | None = None,
        max_iterations: int | None = None,
        time_limit: float | None = None,
        executor: ExecutorLike = "auto",
        options: dict[str, Any] | None = None,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        self.grid: Grid = read_grid(grid)
        limits = Limits(rtol, max_iterations, time_limit, executor, dict(options or {}))
        self.engine = Engine(Network(self.grid), limits)
        step = Step(update_of(self.engine.model), symmetric=True, name="ACOPF")
        check_arguments(step, AUTO, 1, on_failure, certify)
        if degenerate not in ("raise", "least-squares", "damped"):
            raise ValueError(
                "nn.ACOPF: degenerate must be 'raise', 'least-squares' or 'damped', got "
                f"{degenerate!r}"
            )
        if not 0 < damping < float("inf"):
            raise ValueError(f"nn.ACOPF: damping must be above 0, got {damping!r}")
        self.prices = prices
        self.degenerate: Degenerate = degenerate
        self.damping = damping
        self.on_failure: OnFailure = on_failure
        self.certify = certify

    @graph_break
    def forward(
        self,
        pd: Tensor | None = None,
        qd: Tensor | None = None,
        quadratic: Tensor | None = None,
        linear: Tensor | None = None,
    ) -> Dispatch | ACOPFSolution:
        """Dispatch the grid, once or for a batch; float32 or float64, computed in float64.

        Each argument is the same for all samples, or has the batch shape in front; the gradient
        of one that is shared is the sum over the batch. None: the grid's own.

        Parameters
        ----------
        pd, qd
            Active and reactive load at each bus, MW and Mvar, ``(n,)`` or ``(*batch, n)``.
        quadratic, linear
            a and b of the generators' costs, $/MW²h and $/MWh, ``(g,)`` or ``(*batch, g)``.

        Returns
        -------
        Dispatch or ACOPFSolution
            The latter if asked for at construction.

        Raises
        ------
        FoldError
            If a sample is not solved, with its status, or in the backward pass if it has no
            derivative; unless ``on_failure`` and ``degenerate`` say otherwise.
        TypeError, ValueError
            If kinds, dtypes or shapes do not fit, or an argument holds NaN or inf (with
            ``on_failure="mask"``, that of one sample makes that sample NONFINITE).
        """
        params, shared, batch = checked(self.grid, pd, qd, quadratic, linear)
        model = self.engine.model.sharing(shared)
        step = Step(update_of(model), symmetric=True, name="ACOPF")
        adjoint = KKT(self.degenerate, self.damping, self.on_failure, "nn.ACOPF")
        call = prepare(step, params, adjoint, 1, self.on_failure, self.certify, lambda: False)
        start = torch.from_numpy(self.grid.start()).expand(batch.numel(), -1)
        status: list[Tensor] = []

        def by_ipopt(problem: Problem, _starts: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor]:
            asked = tuple(tensor.detach() for tensor in tensors)
            found = self.engine.settle(asked, shared, start, self.on_failure)
            adjoint.answers.append(found.answer)
            problem.messages = found.messages
            status[:] = [found.status]
            point = Point(*(part.to(params[0]) for part in found.point))
            return call.take_solution(point), found.status.to(params[0].device)

        point = Point(*run(call, by_ipopt, ()))
        n, base = len(self.grid.buses), self.grid.base
        z, lam, nu, _ = (part.reshape(*batch, part.shape[-1]) for part in point)
        va, vm, pg, qh = z.split(self.grid.layout, -1)
        pg, qg = base * pg, base * self._shared(qh)
        if not self.prices:
            return Dispatch(va, vm, pg, qg)
        unit = self.engine.network.unit / base
        active, reactive = (unit * nu).split([n, n], -1)
        seen = status[0].reshape(batch).to(z.device)
        congestion = self._congestion(unit * lam)
        return ACOPFSolution(va, vm, pg, qg, active, reactive, congestion, seen)

    def cost(
        self, pg: Tensor, quadratic: Tensor | None = None, linear: Tensor | None = None
    ) -> Tensor:
        """What a dispatch costs an hour, in dollars.

        Parameters
        ----------
        pg
            Active power of the generators, MW, ``(*batch, g)``.
        quadratic, linear
            As in a call; None: the grid's own.

        Returns
        -------
        Tensor
            ``(*batch,)``, with the constant terms of the grid.
        """
        a = torch.from_numpy(self.grid.quadratic).to(pg) if quadratic is None else quadratic
        b = torch.from_numpy(self.grid.linear).to(pg) if linear is None else linear
        return ((a * pg + b) * pg).sum(-1) + float(self.grid.constant.sum())

    def _shared(self, qh: Tensor) -> Tensor:
        """What each generator makes of the reactive power at its bus."""
        host, rest, part = (torch.from_numpy(array).to(qh.device) for array in self.grid.shares)
        return rest.to(qh) + part.to(qh) * qh.index_select(-1, host)

    def _congestion(self, lam: Tensor) -> Tensor:
        """The multipliers of limits of power, with zeros where there is no limit."""
        limited = torch.from_numpy(self.engine.network.limited).to(lam.device)
        ends = lam[..., : 2 * len(limited)].unflatten(-1, (2, -1)).mT
        none = lam.new_zeros(*lam.shape[:-1], len(self.grid.rate), 2)
        return none.index_add(-2, limited, ends)

    def extra_repr(self) -> str:
        """The grid, and the settings that are not the default."""
        n, g = self.grid.sizes
        shown = {
            "prices": (self.prices, False),
            "degenerate": (self.degenerate, "raise"),
            "on_failure": (self.on_failure, "raise"),
        }
        changed = [f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual]
        return ", ".join([f"{self.grid.name}: {n} buses, {g} generators", *changed])
