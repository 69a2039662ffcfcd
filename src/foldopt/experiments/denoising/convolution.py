"""Enhanced total variation of images: learned kernels, a smoothed absolute value, f-FDPG.

With K x the responses of an image to some 3 × 3 kernels, and h(t) = t²/2δ for |t| ≤ δ and
|t| − δ/2 above (Huber), the dual of min ½‖x − d‖² + λ Σ h(K x) is

    min ½‖d + Kᵀw‖² + δ/2λ ‖w‖²   over   |w| ≤ λ,   with x = d + Kᵀw.

Why the smoothing: an image has more differences than pixels. Around a pixel of a flat part they are
dependent, w is not unique there, and a small change of one kernel alone breaks the dependence: x
has no derivative in K. With δ > 0 the dual is strongly convex, and it has.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

import foldopt as fo

__all__ = ["HuberVariation", "differences"]

_GRID = 32
_RESPONSES = ((0, 1), (1, 0), (1, 1), (1, -1))


def differences(count: int) -> Tensor:
    """Kernels ``(count, 3, 3)`` of differences: right, down, and along both diagonals.

    Examples
    --------
    >>> differences(2)[0]
    tensor([[ 0.,  0.,  0.],
            [ 0., -1.,  1.],
            [ 0.,  0.,  0.]], dtype=torch.float64)
    """
    kernels = torch.zeros(count, 3, 3, dtype=torch.float64)
    for kernel, (down, right) in zip(kernels, _RESPONSES, strict=False):
        kernel[1, 1] = -1
        kernel[1 + down, 1 + right] = 1
    return kernels


@dataclasses.dataclass(frozen=True)
class HuberVariation:
    """Denoise images with given kernels.

    The one-pixel frame of an image has no response of its own, and keeps more noise.

    Parameters
    ----------
    smoothing
        δ > 0, in grey levels.
    rtol
        An image is done once a dual step moves w by less than rtol (1 + ‖w‖).
    max_iterations
        Of the accelerated dual descent.

    Examples
    --------
    >>> image = torch.zeros(1, 4, 4).double()
    >>> image[0, 2, 2] = 1.0
    >>> HuberVariation()(image, differences(2), 9.0)[0, 2, 2] < 0.5
    tensor(True)
    """

    smoothing: float = 1.0
    rtol: float = 1e-8
    max_iterations: int = 20_000

    def __post_init__(self) -> None:
        if not self.smoothing > 0:
            raise ValueError(
                f"HuberVariation: smoothing must be above 0, got {self.smoothing}: without it the "
                "solution has no derivative in the kernels"
            )

    def __call__(self, d: Tensor, kernels: Tensor, weight: float) -> Tensor:
        """x, differentiable in d and the kernels.

        Parameters
        ----------
        d
            Images ``(B, H, W)``.
        kernels
            ``(C, 3, 3)``.
        weight
            λ > 0.
        """
        adjoint = fo.GMRES(rtol=1e-8)
        fold = fo.folded(self.step, adjoint=adjoint, on_failure="mask")
        w = fold(self.solve)(d, kernels, weight)
        return self.image(w, d, kernels)

    def image(self, w: Tensor, d: Tensor, kernels: Tensor) -> Tensor:
        """x = d + Kᵀw."""
        return d + respond_back(w, kernels)

    def step(self, w: Tensor, d: Tensor, kernels: Tensor, weight: float) -> Tensor:
        """One step of the dual descent: w of shape ``(B, C, H − 2, W − 2)``."""
        curvature = self.smoothing / weight
        # Every step size has the same fixed points, so that this one counts as a constant.
        L = largest(kernels.detach()) + curvature
        slope = respond(d + respond_back(w, kernels), kernels) + curvature * w
        return (w - slope / L).clamp(-weight, weight)

    def solve(self, d: Tensor, kernels: Tensor, weight: float) -> fo.Solution:
        """w of each image, by the step above with Nesterov's momentum and restarts."""
        w = torch.zeros_like(respond(d, kernels))
        y, t = w, w.new_ones(len(w), 1, 1, 1)
        moved = w.new_full((len(w),), torch.inf)
        goal = self.rtol
        with torch.no_grad():
            for _ in range(self.max_iterations):
                new = self.step(y, d, kernels, weight)
                moved = length(new - y) / (1 + length(y))
                uphill = ((y - new) * (new - w)).sum((1, 2, 3), keepdim=True) > 0
                t = torch.where(uphill, 1, t)
                following = (1 + (1 + 4 * t * t).sqrt()) / 2
                y, w, t = new + (t - 1) / following * (new - w), new, following
                if not bool((moved > goal).any()):
                    break
        status = torch.where(moved <= goal, int(fo.Status.CONVERGED), int(fo.Status.MAX_ITERATIONS))
        return fo.Solution(w, status)


def respond(x: Tensor, kernels: Tensor) -> Tensor:
    """K x: ``(B, H, W)`` to ``(B, C, H − 2, W − 2)``."""
    return conv2d(x.unsqueeze(1), kernels.unsqueeze(1))


def respond_back(w: Tensor, kernels: Tensor) -> Tensor:
    """Kᵀ w."""
    return conv_transpose2d(w, kernels.unsqueeze(1)).squeeze(1)


def largest(kernels: Tensor) -> Tensor:
    """‖K‖², as the largest value of Σ |k̂|² over frequencies, and one percent more.

    A trigonometric polynomial of degree 2 exceeds what it is on a grid of 32 by no more than that;
    and a torus of any size bounds the image inside of it.
    """
    spectrum = torch.fft.fft2(kernels, s=(_GRID, _GRID))
    return 1.02 * spectrum.abs().square().sum(0).max()


def length(w: Tensor) -> Tensor:
    """‖w‖ of each image."""
    return torch.linalg.vector_norm(w, dim=(1, 2, 3))
