"""Total variation denoising as a layer: sequences, images, learned and sparse operators."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from foldopt._arguments import AUTO, CERTIFY, OnFailure, check_arguments
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.nn._total_variation.data import benign, check_sign, data_of, unusable
from foldopt.nn._total_variation.forms import Form, form_of
from foldopt.nn._total_variation.sequence import multipliers as running_sum
from foldopt.nn._total_variation.sequence import update as averaging
from foldopt.status import Status

__all__ = ["TotalVariation", "TotalVariationSolution"]

WEAK = (
    "a difference is only just zero, or only just not: the derivative is one element of the "
    "generalized Jacobian"
)


class TotalVariationSolution(NamedTuple):
    r"""What :class:`TotalVariation` returns with ``multipliers=True``.

    Attributes
    ----------
    x
        The solution, of the shape of the signal.
    multipliers
        u ``(*batch, m)`` of Dx: :math:`x = d - D^\top u`, with :math:`u_i = \lambda_i\,
        \mathrm{sign}(Dx)_i` where :math:`(Dx)_i \ne 0`, and :math:`|u_i| \le \lambda_i`
        elsewhere. They have derivatives too.
    status
        :class:`~foldopt.Status` of each sample, ``(*batch,)``.
    """

    x: Tensor
    multipliers: Tensor
    status: Tensor


class TotalVariation(nn.Module):
    r"""Denoise by total variation, with exact derivatives in the signal, the weight and D.

    .. math:: x^\star = \arg\min_x \tfrac12 \|x - d\|^2 + \sum_i \lambda_i |(D x)_i| .

    The operator D decides how it is solved. Without one, D takes first differences: a semismooth
    Newton method finds the blocks on which x is constant, in O(n) a round, and the derivative is a
    mean over each of them. Images (``dimensions=2``) have anisotropic total variation, the sum over
    neighbours in both directions. A dense D, learned perhaps, has Newton's method on the dual, and
    a sparse one an interior-point method; there the step is the residual of the optimality
    conditions, and the factors of the forward pass serve every cotangent.

    Parameters
    ----------
    dimensions
        How many dimensions of the signal are differenced: 1 for sequences ``(*batch, n)``, 2 for
        images ``(*batch, H, W)``.
    multipliers
        Return a :class:`TotalVariationSolution` and not x alone; not for images, whose multipliers
        are not unique.
    on_failure
        What to do about a sample that holds NaN or is not solved: ``"raise"``, ``"warn"``, or
        ``"mask"``: its x is NaN and its gradient zero, and the others are exact; see
        :func:`~foldopt.fold`.
    certify
        The thresholds of the certificate, a :class:`~foldopt.Certify`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    Where a row has :math:`|u_i| = \lambda_i` and :math:`(Dx)_i = 0` together, x has one-sided
    derivatives only. The derivative given is an element of the generalized Jacobian, and
    :func:`~foldopt.record` says so in the messages of the forward event. At λ = 0 the derivative in
    λ is the one towards λ > 0. Where the rows with Dx = 0 depend on one another, multipliers are
    not unique; they are then near those of least norm, and the derivative in D is that along
    changes which leave the dependence as it is.

    References
    ----------
    L. I. Rudin, S. Osher, E. Fatemi, Physica D 60 (1992), 259–268; M. Hintermüller, K. Ito,
    K. Kunisch, SIAM J. Optim. 13 (2002), 865–888 (Newton's method as a choice of active sets);
    arXiv 2301.12047, Section 5 (a learned D).

    Examples
    --------
    >>> import torch
    >>> import foldopt as fo
    >>> signal = torch.tensor([1.0, 0.0, 5.0, 6.0], requires_grad=True)
    >>> x = fo.nn.TotalVariation()(signal, 0.75)
    >>> x.detach()
    tensor([0.8750, 0.8750, 5.0000, 5.2500])
    >>> torch.autograd.grad(x[0], signal)[0]
    tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """

    def __init__(
        self,
        *,
        dimensions: Literal[1, 2] = 1,
        multipliers: bool = False,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        check_arguments(averaging, AUTO, 1, on_failure, certify)
        if dimensions not in (1, 2):
            raise ValueError(f"nn.TotalVariation: dimensions must be 1 or 2, got {dimensions!r}")
        if multipliers and dimensions == 2:
            raise ValueError(
                "nn.TotalVariation: images have no unique multipliers. Leave multipliers=False, or "
                "use dimensions=1 and a sparse operator, which gives those near the least norm"
            )
        self.dimensions = dimensions
        self.multipliers = multipliers
        self.on_failure: OnFailure = on_failure
        self.certify = certify

    @graph_break
    def forward(
        self, signal: Tensor, weight: Tensor | float, operator: Tensor | None = None
    ) -> Tensor | TotalVariationSolution:
        """Denoise a signal, or a batch of them; float32 or float64, on any device.

        The gradient of a weight or an operator that the batch shares is the sum over the batch.
        Computed on the CPU, in float64.

        Parameters
        ----------
        signal
            d, ``(*batch, n)``, or ``(*batch, H, W)`` with ``dimensions=2``.
        weight
            λ ≥ 0: a number or a tensor of shape ``()`` or ``(*batch,)``; except for images also
            one for each row of D, ``(m,)`` or ``(*batch, m)``.
        operator
            D: dense ``(m, n)`` or ``(*batch, m, n)``, or sparse (COO or CSR) ``(m, n)``, whose
            gradient is sparse and has its pattern. None: differences,
            :math:`(Dx)_i = x_{i+1} - x_i`.

        Returns
        -------
        Tensor or TotalVariationSolution
            x of the shape of the signal, or with multipliers and status if asked for at
            construction.

        Raises
        ------
        FoldError
            If a sample is not solved, with its status; unless ``on_failure`` says otherwise.
        TypeError, ValueError
            If kinds, dtypes or shapes do not fit, a weight is negative, or something holds NaN or
            inf (with ``on_failure="mask"``, in a sample's own data this makes that sample
            NONFINITE).
        """
        data = data_of(signal, weight, operator, self.dimensions)
        form = form_of(data, tuple(signal.shape[len(data.batch) :]))
        call = prepare(
            form.step, form.params, form.adjoint, 1, self.on_failure, self.certify, lambda: False
        )
        status: list[Tensor] = []

        def by_form(problem: Problem, _starts: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor]:
            point, seen, problem.messages = self._solve(form, tensors)
            status[:] = [seen]
            return call.take_solution(point), seen

        found: Any = run(call, by_form, ())
        x = found if isinstance(found, Tensor) else found.x
        shaped = x.reshape(signal.shape)
        if not self.multipliers:
            return shaped
        u = running_sum(x, data.signal) if isinstance(found, Tensor) else found.u
        u = u.reshape(*data.batch, u.shape[-1])
        return TotalVariationSolution(shaped, u, status[0].reshape(data.batch).to(signal.device))

    def _solve(self, form: Form, tensors: Leaves) -> tuple[Any, Tensor, tuple[str, ...]]:
        """The forward pass on plain tensors."""
        like = tensors[0]
        plain = tuple(
            block.detach().cpu().to(torch.float64 if block.is_floating_point() else block.dtype)
            for block in tensors
        )
        check_sign(plain[1])
        bad, holds = unusable(plain)
        if holds:
            if self.on_failure == "raise" or bool(bad.all()):
                raise ValueError(
                    f"nn.TotalVariation: {holds}. Look at where it comes from: a network that has "
                    "diverged, or missing data"
                )
            plain = benign(plain, bad)
        point, status, weak = form.solve(plain, like.dtype)
        status = torch.where(bad, int(Status.NONFINITE), status)
        solved = (status == Status.CONVERGED).unsqueeze(-1)
        if not bool(solved.all()):
            point = _map(lambda part: torch.where(solved, part, torch.nan), point)
        said: tuple[str, ...] = ()
        if holds or bool(weak.any()):
            said = tuple(
                holds if one else WEAK if other else ""
                for one, other in zip(bad.tolist(), weak.tolist(), strict=True)
            )
        return _map(lambda part: part.to(like), point), status, said

    def extra_repr(self) -> str:
        """The settings that are not the default."""
        shown = {
            "dimensions": (self.dimensions, 1),
            "multipliers": (self.multipliers, False),
            "on_failure": (self.on_failure, "raise"),
        }
        return ", ".join(
            f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual
        )


def _map(function: Any, point: Any) -> Any:
    """Apply a function to x, or to x and u."""
    return function(point) if isinstance(point, Tensor) else type(point)(*map(function, point))
