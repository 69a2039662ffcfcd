"""What a trace of the backward pass holds: errors by iteration, and by product."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from foldopt.diagnose._fit import fitted_rate

__all__ = ["Curve", "Trace"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Relative L1 errors of a gradient ∂L/∂c, by what they cost.

    Attributes
    ----------
    spent
        Iterations of the step, or products with Φᵀ: integers, rising, shape ``(k,)``.
    error
        ‖∂L/∂c − its converged value‖₁ / ‖converged value‖₁, over all params and the batch.
    eps
        The machine precision of the dtype in which they were computed.
    """

    spent: Tensor
    error: Tensor
    eps: float

    def fitted_rate(self, power: float = 0.0) -> float:
        """−d log(error)/dk where the curve is asymptotic, to be compared with −log ρ(Φ).

        A least-squares line through log(error) − power · log k, over the last two thirds of the
        points above the rounding floor, with a decaying transient where that explains most of
        what the line leaves over. From the fixed point the error is like ρ^k (``power=0``), from
        elsewhere like k ρ^k (``power=1``). inf where two products leave nothing.

        A curve falls faster than ρ^k for as long as other eigenvalues have more of the gradient,
        or for ever if the dominant one has nothing of it; one that oscillates more slowly than
        it falls says little. The fit cannot know.

        Raises
        ------
        ValueError
            If there are fewer than four points to fit.
        """
        return fitted_rate(self.spent, self.error, power, self.eps)

    def first_below(self, error: float) -> int | None:
        """The least cost from which on every error is at most ``error``; None if there is none."""
        above = (~(self.error <= error)).nonzero()
        index = int(above[-1]) + 1 if len(above) else 0
        return int(self.spent[index]) if index < len(self.spent) else None


@dataclasses.dataclass(frozen=True)
class Trace:
    """Forward and backward errors of one problem, unrolled and by linear solver.

    Attributes
    ----------
    start
        ``"fixed_point"``, ``"random"`` or ``"given"``: where the unrolling began.
    iterations
        k, integers, shape ``(K,)``.
    forward
        ‖x_k − x*‖₁ / ‖x*‖₁ over the batch, shape ``(K,)``.
    backward
        The error of ∂L(x_k)/∂c after k recorded iterations; 1 at k = 0, where it is zero.
    adjoints
        The error of Ψᵀv by linear solver, as a function of the products with Φᵀ it was allowed.
    """

    start: str
    iterations: Tensor
    forward: Tensor
    backward: Curve
    adjoints: dict[str, Curve]

    def fitted_rate(self, of: str = "backward", power: float | None = None) -> float:
        """The rate at which a curve falls, to be compared with −log ρ(Φ).

        Parameters
        ----------
        of
            ``"forward"``, ``"backward"``, or the name of a linear solver in ``adjoints``.
        power
            The error is like k^power ρ^k. None: 1 for ``"backward"`` from another start than the
            fixed point, 0 for everything else.

        Raises
        ------
        KeyError
            If there is no such curve.
        ValueError
            If a curve has fewer than four points above the rounding floor.
        """
        curves = {
            "forward": Curve(self.iterations, self.forward, self.backward.eps),
            "backward": self.backward,
            **self.adjoints,
        }
        if of not in curves:
            raise KeyError(f"no curve {of!r} in this trace; there are {', '.join(curves)}")
        if power is None:
            power = float(of == "backward" and self.start != "fixed_point")
        return curves[of].fitted_rate(power)

    def as_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings and lists, for JSON or a table."""

        def numbers(curve: Curve) -> dict[str, list[float]]:
            return {"spent": curve.spent.tolist(), "error": curve.error.tolist()}

        return {
            "start": self.start,
            "iterations": self.iterations.tolist(),
            "forward": self.forward.tolist(),
            "backward": self.backward.error.tolist(),
            "adjoints": {name: numbers(curve) for name, curve in self.adjoints.items()},
        }
