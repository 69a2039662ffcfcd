"""What a trap is, and the one rule by which every layer's answer to it is judged."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

WELL = 1e-3  # the largest relative error that counts as right, of x and of the gradient
# A layer called with leaves: x, or x and what it says of the samples ("": all is well).
Layer = Callable[..., Any]
# Words in what a library prints that count as having said that something is wrong.
_SAID = re.compile(r"warn|inaccura|infeas|unbounded|fail|least-squares|not conv|unsolved", re.I)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is right.

    Attributes
    ----------
    x
        ``(B, *event)``; None where every solution counts.
    gradients
        For each leaf the gradient, or two between which it lies where the derivative is one-sided.
        None: there is no derivative, and any finite gradient is wrong.
    lost
        The samples that have no solution: nothing finite may be returned for them in silence. The
        gradients are then those of the other samples.
    """

    x: Tensor | None
    gradients: tuple[Tensor | tuple[Tensor, Tensor], ...] | None
    lost: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Trap:
    """A problem on which a wrong answer would look like a right one.

    Attributes
    ----------
    name, what
        A few words, and a sentence.
    leaves
        What gets a gradient.
    cotangent
        The loss is its product with x.
    pose
        For each library a function that makes its layer. One that is missing cannot be posed this.
    """

    name: str
    what: str
    leaves: tuple[Tensor, ...]
    cotangent: Tensor
    truth: Truth
    pose: dict[str, Callable[[], Layer]]


class Verdict(NamedTuple):
    """How a layer fared: ``right``, ``said`` (an error, a warning, a status, NaN) or ``wrong``."""

    kind: str
    words: str


class Answer(NamedTuple):
    x: Tensor
    gradients: tuple[Tensor, ...]
    said: str


def judge(trap: Trap, layer: Layer) -> Verdict:
    """The same rule for every library, ours too.

    An exception, in either pass, is honest. Else all is held against the truth: right if the
    relative errors of x and of every gradient are at most ``WELL``; another dtype than came in is
    named. What is not right is honest if it is NaN, or if a warning, a printed one too, or a status
    said so; and wrong in silence otherwise.
    """
    heard: list[str] = []
    try:
        with listening(heard):
            answer = ask(trap, layer)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # a panic in Rust is no Exception
        return Verdict("said", f"raises {type(failure).__name__}")
    said = answer.said or next(iter(heard), "")
    truth = trap.truth
    kept = [i for i in range(len(answer.x)) if i not in truth.lost]
    for i in truth.lost:
        if bool(torch.isfinite(answer.x[i]).all()) and not said:
            return Verdict("wrong", "an answer where there is none")
    error = 0.0
    if truth.x is not None:
        error = of_rows(answer.x[kept], truth.x[kept]) if kept else 0.0
    if truth.gradients is None:
        if said or not all(bool(torch.isfinite(g).all()) for g in answer.gradients):
            return Verdict("said", "says so")
        return Verdict("wrong", "a gradient where there is none")
    gradients = [g[kept] if truth.lost else g for g in answer.gradients]
    worst = max(map(of_gradient, gradients, truth.gradients))
    if max(error, worst) <= WELL:
        note = ", says so" if said else ""
        if truth.lost:
            return Verdict("said", f"{'says so' if said else 'NaN'}; the others right")
        if answer.x.dtype != trap.leaves[0].dtype:
            return Verdict("said", f"right, but {str(answer.x.dtype)[6:]}")
        return Verdict("right", f"{max(error, worst):.0e}{note}")
    if said:
        return Verdict("said", f"says so, {shown(error, worst)}")
    if max(error, worst) == float("inf"):
        return Verdict("said", "NaN")
    return Verdict("wrong", shown(error, worst))


def shown(error: float, worst: float) -> str:
    return f"x {error:.0e}" if error > WELL else f"gradient {worst:.0e}"


def ask(trap: Trap, layer: Layer) -> Answer:
    leaves = [leaf.clone().requires_grad_() for leaf in trap.leaves]
    found = layer(*leaves)
    x, said = found if isinstance(found, tuple) else (found, "")
    kept = [i for i in range(len(x)) if i not in trap.truth.lost]
    (x * trap.cotangent)[kept].sum().backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return Answer(x.detach(), tuple(gradients), said)


def of_gradient(found: Tensor, right: Tensor | tuple[Tensor, Tensor]) -> float:
    """The relative error; of one that may lie between two, the distance from the segment."""
    if isinstance(right, Tensor):
        return of_rows(found, right)
    low, high = (side.flatten() for side in right)
    along = high - low
    t = ((found.flatten() - low) @ along / (along @ along)).clamp(0, 1)
    return of_rows(found.flatten()[None], (low + t * along)[None])


def of_rows(found: Tensor, right: Tensor) -> float:
    """The largest relative error of a row in norm; one that is nearly zero is held to the others.

    Where all of them are zero, the error is absolute. What is not finite is infinitely wrong.
    """
    if found.numel() == 0:
        return 0.0
    rows = found.double().reshape(len(found), -1) if found.dim() > 1 else found.double()[None]
    true = right.double().reshape(rows.shape)
    if not bool(torch.isfinite(rows).all()):
        return float("inf")
    size = true.norm(dim=-1)
    size = size.clamp_min(1e-2 * float(size.max()))
    size = torch.where(size > 0, size, 1)
    return float(((rows - true).norm(dim=-1) / size).max())


@contextlib.contextmanager
def listening(heard: list[str]) -> Iterator[None]:
    """Catch warnings, and what is printed, by C libraries too; note those that say something."""
    sys.stdout.flush()
    with tempfile.TemporaryFile(mode="w+") as kept, warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        before = os.dup(1), os.dup(2)
        os.dup2(kept.fileno(), 1)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(before, 1):
                os.dup2(old, number)
                os.close(old)
            kept.seek(0)
            heard += [line for line in kept.read().splitlines() if _SAID.search(line)]
            quiet = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
            heard += [str(one.message) for one in raised if not issubclass(one.category, quiet)]
