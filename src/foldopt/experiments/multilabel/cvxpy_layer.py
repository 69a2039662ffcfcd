"""The same layer by cvxpylayers, which differentiates the cone program that CVXPY makes of it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from foldopt.experiments.convergence.top_k import TopK

__all__ = ["CVXPYLAYERS", "CvxpyTopK", "missing"]

CVXPYLAYERS = "cvxpylayers"


def missing() -> str | None:
    """Why cvxpylayers cannot be used here, or None.

    Returns
    -------
    str or None
        The name of what is missing, with the error's text.

    Examples
    --------
    >>> missing() is None or "cvxpylayers" in missing()
    True
    """
    for name in ("cvxpy", "diffcp", "cvxpylayers.torch"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name} cannot be imported ({error}): pip install cvxpylayers"
    return None


class CvxpyTopK:
    """The layer with cvxpylayers' backward pass and the common forward value.

    cvxpylayers differentiates at its own solution and has no way to be given another. So it solves
    too; then x is set to the value of the common forward pass, while the graph stays its own. The
    cotangent of every method is thus that of one and the same x, and what differs is the backward
    pass, which here includes how exactly its cone program was solved.

    Parameters
    ----------
    n
        How many logits.
    k
        How many are selected.

    Attributes
    ----------
    distance
        The largest difference, so far, between its own solution and the common one.
    failed
        How many batches its solver gave up on. They get the common x without a derivative.

    Raises
    ------
    ImportError
        If cvxpylayers is not installed.
    """

    def __init__(self, n: int, k: int) -> None:
        lacking = missing()
        if lacking is not None:
            raise ImportError(f"CvxpyTopK: {lacking}")
        cp: Any = importlib.import_module("cvxpy")
        diffcp: Any = importlib.import_module("diffcp")
        layers: Any = importlib.import_module("cvxpylayers.torch")
        x, c = cp.Variable(n), cp.Parameter(n)
        # x ≥ 0 is in the domain of the entropy.
        program = cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [x <= 1, cp.sum(x) == k])
        self._layer = layers.CvxpyLayer(program, parameters=[c], variables=[x])
        self._gave_up = diffcp.SolverError
        self._problem = TopK(k)
        self.distance = 0.0
        self.failed = 0

    def __call__(self, c: Tensor) -> Tensor:
        """x, shape ``(B, n)``, for logits c of that shape; computed on the CPU, in float64."""
        common = self._problem.solve(c.detach())
        try:
            own = self.solve(c)
        except self._gave_up:
            self.failed += 1
            return common + 0 * c
        self.distance = max(self.distance, float((own.detach() - common).abs().max()))
        return common + (own - own.detach())

    def solve(self, c: Tensor) -> Tensor:
        """Its own solution, with its own derivative.

        Parameters
        ----------
        c
            Logits, shape ``(B, n)``.

        Returns
        -------
        Tensor
            x, shape ``(B, n)``.
        """
        settings: dict[str, Any] = {"solve_method": "Clarabel"}
        if torch.is_grad_enabled() and c.requires_grad:
            # One thread, as all the other methods have; without a graph it takes no such word.
            settings |= {"n_jobs_forward": 1, "n_jobs_backward": 1}
        (x,) = self._layer(c.cpu().double(), solver_args=settings)
        return x.to(c)
