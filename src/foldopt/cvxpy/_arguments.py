"""The arguments of the layer and of its calls, looked at before anything is computed."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import torch
from torch import Tensor

__all__ = ["check_problem", "checked_values"]


def check_problem(problem: Any, parameters: Any, variables: Any, gp: bool) -> None:
    """Raise unless the problem can be canonicalized once for all values of its parameters."""
    if not isinstance(problem, cp.Problem):
        raise TypeError(
            f"CvxpyLayer: problem must be a cvxpy.Problem, got {type(problem).__name__}"
        )
    for name, given in (("parameters", parameters), ("variables", variables)):
        if not isinstance(given, (list, tuple)):
            raise ValueError(
                f"CvxpyLayer: {name} must be a list or tuple, got {type(given).__name__}: "
                f"{name}=[...]"
            )
    if gp:
        if not _is_dpp(problem, "dgp"):
            raise ValueError(
                "CvxpyLayer: the problem is not DPP for geometric programming (gp=True): "
                "problem.is_dpp('dgp') is False. Parameters must enter as in "
                "https://www.cvxpy.org/tutorial/dgp/"
            )
    elif not _is_dpp(problem, quad_form_dpp="qp"):
        raise ValueError(
            "CvxpyLayer: the problem is not DPP: its data are not affine in its parameters. "
            "Likely causes: a product of two parameters (make it one parameter), a nonlinear "
            "function of one (compute it in PyTorch, and pass the result), or quad_form(x, P) with "
            "a parameter P in a constraint (it may only stand in the objective; write "
            "sum_squares(F @ x) with P = FᵀF)"
        )
    if set(problem.parameters()) != set(parameters):
        missing = sorted(p.name() for p in set(problem.parameters()) - set(parameters))
        extra = sorted(p.name() for p in set(parameters) - set(problem.parameters()))
        raise ValueError(
            "CvxpyLayer: parameters must be exactly those of the problem (problem.parameters()); "
            f"missing: {missing}, not in the problem: {extra}"
        )
    if len(set(parameters)) != len(parameters):
        raise ValueError("CvxpyLayer: a parameter is listed twice in parameters")
    known = {variable.id for variable in problem.variables()}
    known |= {dual.id for one in problem.constraints for dual in one.dual_variables}
    for variable in variables:
        if getattr(variable, "id", None) not in known:
            raise ValueError(
                f"CvxpyLayer: {variable} in variables is neither a variable of the problem "
                "(problem.variables()) nor a dual variable of one of its constraints "
                "(constraint.dual_variables)"
            )


def _is_dpp(problem: Any, *args: Any, **options: Any) -> bool:
    return problem.is_dpp(*args, **options)


def checked_values(
    values: tuple[Any, ...], shapes: list[tuple[int, ...]]
) -> tuple[list[bool], int | None]:
    """Which tensors are batched, and the size of the batch; None: no tensor is.

    Raises
    ------
    TypeError
        If one is not a tensor.
    ValueError
        If their number or a shape does not fit.
    """
    if len(values) != len(shapes):
        raise ValueError(
            f"CvxpyLayer: one tensor for each parameter is needed: got {len(values)} tensors, "
            f"expected {len(shapes)}"
        )
    batched, count = [], None
    for i, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"CvxpyLayer: parameter {i} must be a tensor, got {type(value).__name__}: "
                "torch.as_tensor(value)"
            )
        if value.is_complex():
            raise TypeError(
                f"CvxpyLayer: parameter {i} is {value.dtype}, and programs here are real: pass the "
                "real and the imaginary parts as two parameters"
            )
        seen, extra = tuple(value.shape), value.dim() - len(shape)
        if extra not in (0, 1):
            raise ValueError(
                f"CvxpyLayer: parameter {i} has {value.dim()} dimensions, expected {len(shape)} "
                f"(shape {shape}), or {len(shape) + 1} with one batch dimension in front"
            )
        if seen[extra:] != shape:
            wanted = shape if not extra else f"(batch, {', '.join(map(str, shape))})"
            raise ValueError(f"CvxpyLayer: parameter {i} has shape {seen}, expected {wanted}")
        batched.append(bool(extra))
        if extra:
            if count is not None and count != seen[0]:
                sizes = [v.shape[0] if v.dim() > len(s) else 0 for v, s in
                         zip(values, shapes, strict=True) if isinstance(v, Tensor)]  # fmt: skip
                raise ValueError(
                    "CvxpyLayer: all batched parameters must have the same batch size, got "
                    f"{sizes} (0: not batched)"
                )
            count = seen[0]
    return batched, count


def common_dtype(values: tuple[Tensor, ...]) -> torch.dtype:
    """The floating dtype of the results."""
    found = torch.get_default_dtype()
    for i, value in enumerate(values):
        found = value.dtype if i == 0 else torch.promote_types(found, value.dtype)
    return found if found.is_floating_point else torch.get_default_dtype()
