"""What is trained: the network, and the program behind it, but for samples without derivative."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.experiments.bilinear.data import FEATURES
from foldopt.experiments.bilinear.program import (
    GAP,
    Bilinear,
    Forward,
    bilinear_layer,
    search,
    solve_globally,
)
from foldopt.solvers.global_qp import GlobalQP

__all__ = ["Folded", "Predictor", "folded_program", "forward_of", "initial_model"]

# The paper's own: "the results reported use the 120s timeout".
_SECONDS = 120.0


class Folded:
    """A layer that gives a zero gradient to samples without a derivative, and counts them.

    A vertex y = e_i + e_j has more active constraints than it needs. Where they are dependent in a
    way that the step's inner iteration feels, its linear system is singular. So this looks at every
    linear system that a batch has solved, and leaves out the samples for which one failed. Most
    are vertices, with a derivative of zero anyway; at some x does move (with n = 10 and ε = 1 they
    are few). f-PGDa, which differentiates the active set, has a derivative at all of them.

    Parameters
    ----------
    layer
        ``layer(costs) -> z``, made with ``on_failure="mask"``.

    Attributes
    ----------
    masked
        How many samples have been left out so far.
    differentiated
        How many have been asked for.
    last_failed
        Which samples of the last batch were left out on the way back.
    """

    def __init__(self, layer: fo.nn.FoldedOptimizer) -> None:
        self.layer = layer
        self.masked = 0
        self.differentiated = 0
        self.last_failed = torch.zeros(0, dtype=torch.bool)
        self._solved = 0
        self._unsolved = 0
        self._worst = {"forward": 0.0, "adjoint": 0.0}
        self._told = (0, 0)

    def __call__(self, costs: Tensor) -> Tensor:
        """z, shape ``(B, 2 n)``, for costs of the same shape."""
        own = costs.clone()
        with fo.record() as seen:
            z = self.layer(own)
        self._solved += len(costs)
        self._unsolved += int(_failed(seen, len(costs)).sum())
        self._note(seen, "forward")

        def leave_out(gradient: Tensor) -> Tensor:
            failed = _failed(seen, len(gradient))
            self.last_failed = failed
            self.masked += int(failed.sum())
            self.differentiated += len(gradient)
            self._note(seen, "adjoint")
            return torch.where(failed.unsqueeze(-1), 0, gradient)

        if own.requires_grad:
            own.register_hook(leave_out)
        return z

    def take_summary(self) -> dict[str, int | float]:
        """The certificates since this was last asked, in the form of the frame's ``certificates``.

        That one counts linear systems; here a sample counts once, whichever of its systems failed.
        """
        taken = {
            "solved": self._solved,
            "unsolved": self._unsolved,
            "forward": self._worst["forward"],
            "differentiated": self.differentiated - self._told[0],
            "masked": self.masked - self._told[1],
            "backward": self._worst["adjoint"],
        }
        self._told = (self.differentiated, self.masked)
        self._solved = self._unsolved = 0
        self._worst = {"forward": 0.0, "adjoint": 0.0}
        return taken

    def _note(self, seen: fo.Record, kind: str) -> None:
        for event in seen:
            good = event.residual[~fo.Status.failed(event.status)]
            if event.kind == kind and good.numel():
                self._worst[kind] = max(self._worst[kind], float(good.max()))


def _failed(seen: fo.Record, samples: int) -> Tensor:
    """Which samples of a batch had a failure in any of their systems."""
    failed = torch.zeros(samples, dtype=torch.bool)
    for event in seen:
        # Inner systems come with one more dimension in front, for several cotangents.
        failed |= fo.Status.failed(event.status).reshape(-1, samples).any(0)
    return failed


def forward_of(solver: Forward) -> Callable[[Bilinear, Tensor, float], fo.Solution]:
    """``solve(objective, costs, epsilon) -> Solution`` for the name of a solver."""
    if solver == "ascent":
        return search
    engine = GlobalQP(solver, gap=GAP, atol=GAP, time_limit=_SECONDS)
    return lambda objective, costs, epsilon: solve_globally(objective, costs, epsilon, engine)


def folded_program(objective: Bilinear, epsilon: float, solver: Forward = "ascent") -> Folded:
    """The layer of a program, as training takes it.

    Parameters
    ----------
    objective, epsilon
        See :func:`~foldopt.experiments.bilinear.program.bilinear_layer`.
    solver
        Who solves it.

    Returns
    -------
    Folded
        The layer.

    Examples
    --------
    >>> layer = folded_program(Bilinear(torch.zeros(3, 3).double()), epsilon=1.0)
    >>> costs = torch.tensor([[0.2, 0.0, -9.0, 0.3, 0.0, 0.0]]).double().requires_grad_()
    >>> layer(costs)[0, 0].backward()
    >>> layer.masked, layer.differentiated
    (0, 1)
    """
    return Folded(bilinear_layer(objective, epsilon, forward_of(solver), on_failure="mask"))


class Predictor(nn.Module):
    """Five linear layers with ReLU between them: inputs to costs.

    Parameters
    ----------
    hidden
        Width of the hidden layers.
    n
        The length of x, and of y.

    Examples
    --------
    >>> Predictor(hidden=8, n=3)(torch.zeros(4, 10)).shape
    torch.Size([4, 6])
    """

    def __init__(self, hidden: int, n: int) -> None:
        super().__init__()
        widths = (FEATURES, *[hidden] * 4, 2 * n)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """``(B, 10)`` to (c, d), ``(B, 2 n)``."""
        return self.layers(features)


def initial_model(hidden: int, n: int, seed: int) -> Predictor:
    """The network with the weights of a seed, float64; the global random state is left alone.

    Parameters
    ----------
    hidden, n
        See :class:`Predictor`.
    seed
        Of the weights.

    Returns
    -------
    Predictor
        The network.

    Examples
    --------
    >>> initial_model(hidden=8, n=3, seed=0)(torch.zeros(4, 10).double()).dtype
    torch.float64
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Predictor(hidden, n).double()
