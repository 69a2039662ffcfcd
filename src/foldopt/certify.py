"""The certificates: whether the step fits the solution, and its gradient can be trusted."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from foldopt.jacobian import StepJacobian
from foldopt.linear._common import positive
from foldopt.status import FoldError, FoldWarning, Status, tally

__all__ = ["Certify"]

_HALF = (torch.float16, torch.bfloat16)
ON_FAILURE = ("raise", "warn", "mask")


@dataclasses.dataclass(frozen=True)
class Certify:
    """How far U(x*, c) may be from x*, as ‖U(x*, c) − x*‖ / (1 + ‖x*‖) for each sample.

    An inexact engine is normal; a solver and a step that do not fit are not.

    Parameters
    ----------
    error_above
        A sample above this has failed. None: 1e-2, and 1e-1 where x is in half precision.
    warn_above
        A sample above this is reported by a :class:`~foldopt.FoldWarning`. None: 1e-5 in
        float64, 1e-3 in float32, 2e-2 in half precision.

    Raises
    ------
    ValueError
        If a threshold is not above zero.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[4.0]], requires_grad=True)
    >>> rough = fo.Certify(error_above=0.1, warn_above=0.1)
    >>> x = fo.fold(lambda x, c: 0.5 * (x + c / x), torch.tensor([[2.1]]), c, certify=rough)
    """

    error_above: float | None = None
    warn_above: float | None = None

    def __post_init__(self) -> None:
        positive(error_above=self.error_above, warn_above=self.warn_above)

    def limits(self, dtype: torch.dtype) -> tuple[float, float]:
        """The two thresholds for an x of the given dtype: error, warning."""
        error = 1e-1 if dtype in _HALF else 1e-2
        warn = 2e-2 if dtype in _HALF else 1e-5 if dtype == torch.float64 else 1e-3
        error = error if self.error_above is None else self.error_above
        return error, min(error, warn if self.warn_above is None else self.warn_above)


def forward_status(relative: Tensor, reported: Tensor | None, error_above: float) -> Tensor:
    """The status of each sample after the forward pass."""
    finite = torch.isfinite(relative)
    status = torch.zeros_like(relative, dtype=torch.int64) if reported is None else reported
    well = ~Status.failed(status)
    status = torch.where(well & ~finite, int(Status.NONFINITE), status)
    off = well & finite & ~(relative <= error_above)
    return torch.where(off, int(Status.NOT_FIXED), status)


def reported_status(status: Tensor, batch: Sequence[int]) -> Tensor:
    """What a solver has said of each sample, ``(B,)``."""
    if status.numel() != math.prod(batch):
        raise ValueError(
            f"fold: the solver's status has shape {tuple(status.shape)}, and x has batch shape "
            f"{tuple(batch)}: a status is one number for each sample. Return it in the batch "
            "shape, or none at all."
        )
    return status.reshape(-1).to(torch.int64)


def forward_message(
    status: Tensor,
    relative: Tensor,
    error_above: float,
    poisoned: bool,
    said: tuple[str, ...] = (),
) -> str:
    """What to say of samples that failed on the way forward; ``said``: the solver's own words."""
    lines = [f"fold: the forward pass failed: {tally(status)}."]
    if poisoned:
        lines.append("The params hold NaN or inf: look there first.")
    codes = {Status(int(code)) for code in torch.unique(status[Status.failed(status)])}
    if Status.NOT_FIXED in codes:
        worst = float(relative[status == Status.NOT_FIXED].max())
        lines.append(
            "NOT_FIXED: the step does not leave the solver's answer where it is: "
            f"‖U(x) − x‖ / (1 + ‖x‖) = {worst:.1e}, above {error_above:.0e}. Likely causes: the "
            "solver stopped early or solves another problem than the step (a sign, a factor ½, "
            "a constraint), or the step takes its params in another order. Check "
            "step(x_star, *params) against x_star by hand, tighten the solver, or set "
            "certify=Certify(error_above=...) if the distance is intended."
        )
    if Status.NONFINITE in codes:
        lines.append(
            "NONFINITE: the solver's answer or the step there holds NaN or inf. Check the "
            "params of that sample, and the step's domain (log, sqrt, division at x_star)."
        )
    if codes - {Status.NOT_FIXED, Status.NONFINITE}:
        lines.append(
            "The other statuses are the solver's own report: there is no solution to "
            "differentiate there. Check those samples' problem data or the solver's limits "
            "(fixed_point: max_iterations, rtol, method, or a step with a smaller step size)."
        )
    failed = Status.failed(status).tolist()
    words = [f"sample {i}: {text}" for i, text in enumerate(said) if text and failed[i]]
    if words:
        lines.append(f"The solver says of {words[0]}.")
    lines.append("on_failure='mask' gives failed samples a zero gradient and keeps the others.")
    return " ".join(lines)


def near_message(relative: Tensor, warn_above: float) -> str:
    """What to say of samples whose fixed-point residual is large but tolerable."""
    count = int((relative > warn_above).sum())
    return (
        f"fold: the step moves the solver's answer in {count} of {relative.numel()} samples by "
        f"up to ‖U(x) − x‖ / (1 + ‖x‖) = {float(relative.max()):.1e} (above {warn_above:.0e}): "
        "the gradient is that of a nearby problem. Tighten the solver's tolerance, or set "
        "certify=Certify(warn_above=...) if this is accurate enough."
    )


def backward_message(status: Tensor, residual: Tensor, method: str, transpose: bool) -> str:
    """What to say of a linear solve that failed."""
    system = "(I − Φᵀ) v = g" if transpose else "(I − Φ) t = Ψċ"
    codes = {Status(int(code)) for code in torch.unique(status[Status.failed(status)])}
    worst = residual[Status.failed(status)]
    lines = [
        f"fold: {method} did not solve {system}: {tally(status)}; relative residual up to "
        f"{float(worst.max()):.1e}."
    ]
    advice = {
        Status.DIVERGED: "DIVERGED: ρ(Φ) is 1 or more, where this iteration has no limit; use "
        "GMRES() or Dense(), or a step with a smaller step size.",
        Status.BREAKDOWN: "BREAKDOWN: I − Φ is singular to working precision: the solution is "
        "not unique, or not a smooth function of the params, there. Regularise the problem, or "
        "ask for the minimum-norm answer with Dense(least_squares=True).",
        Status.STAGNATED: "STAGNATED: the residual stopped falling: I − Φ is nearly singular, or "
        "(CG) Φ is not symmetric. Use Dense() or GMRES() with a larger restart.",
        Status.MAX_ITERATIONS: "MAX_ITERATIONS: raise max_iterations or rtol, or use Dense().",
        Status.NONFINITE: "NONFINITE: the incoming gradient or the step's derivative holds NaN "
        "or inf. Check the loss, and the step's derivative at x_star (sqrt or norm at 0).",
    }
    lines += [text for code, text in advice.items() if code in codes]
    lines.append("on_failure='mask' gives failed samples a zero gradient and keeps the others.")
    return " ".join(lines)


def report(on_failure: str, message: str, status: Tensor) -> None:
    """Raise or warn, as asked; a masked failure is silent here and stands in the record."""
    if on_failure == "raise":
        raise FoldError(message, status.detach())
    if on_failure == "warn":
        warnings.warn(message, FoldWarning, stacklevel=2)


def check_recorded(jacobian: StepJacobian, names: Sequence[str], mixing: bool) -> None:
    """Look at a recorded step for what would make its gradient silently wrong.

    Parameters
    ----------
    names
        One name for each of the step's params, for messages; "" for those that may be unused.
    mixing
        Whether to look for dependence between samples, which costs two products.
    """
    ends = _graph_leaves(jacobian)
    own = {id(leaf) for leaf in (*jacobian.x, *jacobian.params)}
    strangers = [leaf for key, leaf in ends.items() if key not in own]
    if strangers:
        raise FoldError(captured_message(tuple(strangers[0].shape), len(strangers)))
    wanted = [param.requires_grad for param in jacobian.params]
    if any(wanted) and not any(leaf.requires_grad for leaf in jacobian.value):
        raise FoldError(
            "fold: the step's result has no graph: it depends on neither x nor params as far as "
            "autograd can see. Likely causes: numpy, detach(), no_grad() or item() inside the "
            "step. Write the step in PyTorch operations."
        )
    for name, param in zip(names, jacobian.params, strict=True):
        if name and param.requires_grad and id(param) not in ends:
            warnings.warn(
                f"fold: {name} requires grad, but the step does not use it, so that its gradient "
                "is zero. If the solution does depend on it, the step must too (a detach() inside "
                "the step hides it); if not, pass it detached.",
                FoldWarning,
                stacklevel=2,
            )
    if mixing and jacobian.layout.samples > 1 and jacobian.layout.n > 0:
        _check_mixing(jacobian)


def captured_message(shape: tuple[int, ...], count: int = 1) -> str:
    """What to say of a step that closes over tensors of the caller's graph."""
    return (
        f"fold: the step uses {count} tensor(s) that require grad but are not among its params "
        f"(first: shape {shape}); their gradient would be lost. Pass them as params, "
        "step(x, *params), or hold them in an nn.Module that is itself the step; or detach() "
        "them inside the step if no gradient is wanted."
    )


def _graph_leaves(jacobian: StepJacobian) -> dict[int, Tensor]:
    """The tensors at the ends of the recorded graph, by ``id``.

    These are the leaves that :class:`StepJacobian` made, and nothing else unless the step closes
    over a tensor of the caller's graph.
    """
    found: dict[int, Tensor] = {id(leaf): leaf for leaf in jacobian.value if leaf.is_leaf}
    stack = [leaf.grad_fn for leaf in jacobian.value if leaf.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)  # only the nodes of leaves have one
        if variable is not None:
            found[id(variable)] = variable
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return {key: leaf for key, leaf in found.items() if leaf.requires_grad}


def _check_mixing(jacobian: StepJacobian) -> None:
    """Raise if one sample's update depends on another sample's x.

    A cotangent on some of the samples must leave the others' gradient at zero. A dependence
    within one class escapes this test, which is meant for means, sums, batch norms, sorts and
    transposed dimensions.
    """
    like = jacobian.layout.ravel(jacobian.x).detach()
    for chosen in parity(len(like), like.device):
        cotangent = chosen.to(like.dtype).unsqueeze(-1).expand_as(like).contiguous()
        touched = (jacobian.vjp(cotangent).abs() > 0).any(-1) & ~chosen
        if bool(touched.any()):
            sample = int(touched.nonzero()[0])
            raise FoldError(
                f"fold: the step mixes samples: another sample's update depends on sample "
                f"{sample} of x, which has batch shape {tuple(jacobian.layout.batch)}. Each "
                "sample must be updated on its own. Likely causes: a mean, sum, norm or sort "
                "over the batch dimension, batch normalisation, or a batch_dims that does not "
                "match the shapes (batch_dims=0 for one unbatched instance)."
            )


def parity(samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Split samples in two by the Thue–Morse sequence: the parity of the ones in their number.

    No shift, reversal or block pattern repeats it, so that hardly any regular dependence between
    samples stays within one class.
    """
    number = torch.arange(samples, device=device)
    odd = torch.zeros_like(number)
    for bit in range(max(samples - 1, 0).bit_length()):
        odd = odd ^ ((number >> bit) & 1)
    return odd == 1, odd == 0


def fixed_point_residual(value: Tensor, x: Tensor) -> Tensor:
    """‖U(x) − x‖ / (1 + ‖x‖) for each sample; value and x are ``(B, n)``."""
    norm = torch.linalg.vector_norm
    return norm(value - x, dim=-1) / (1 + norm(x, dim=-1))
