"""What must hold of every call, whatever its arguments.

It ends in time. It returns, or raises an exception of a documented class whose message names the
argument or the function. It leaves its arguments as they were. What it returns has the right shape
and dtype, and finite values, unless a status says that the sample failed or what came in was not
finite. Its gradient, where the call is smooth, is that of finite differences.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import foldopt as fo
from tests.fuzz import functions as f
from tests.fuzz.calls import Call
from tests.fuzz.values import Array

SECONDS = 60  # the first call of an engine imports it
DOCUMENTED = (TypeError, ValueError, fo.FoldError, ImportError)
NAMESPACE = {"fo": fo, "torch": torch, "np": np, "f": f, "nan": np.nan, "inf": np.inf}


class BrokenError(AssertionError):
    """An invariant that does not hold, and the call."""


class Hang(BaseException):
    """A call that takes too long; no ``except Exception`` may catch it."""


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise :class:`Hang` after so long; on the main thread of a Unix, and nothing elsewhere."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(call: Call) -> str:
    """Make a call, and raise :class:`BrokenError` if something does not hold; what came of it."""
    try:
        with limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", fo.FoldWarning)
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            # Of sparse tensors, which torch calls a beta; of complex ones, that we are about to
            # refuse; and of modules that an engine imports.
            warnings.filterwarnings("ignore", ".*[Ss]parse")
            warnings.filterwarnings("ignore", ".*builtin type .* has no __module__")
            return _checked(call)
    except Hang:
        raise BrokenError(f"it takes more than {SECONDS} s:\n{call!r}") from None


def _checked(call: Call) -> str:
    try:
        function, args, kwargs = _made(call)
    except DOCUMENTED as error:
        _clear(error, call)
        return f"refused: {type(error).__name__}"
    except Exception as error:
        raise BrokenError(_undocumented(error, call)) from error
    before = [_copy(arg) for arg in (*args, *kwargs.values())]
    arrays = [arg for arg in (*call.args, *dict(call.kwargs).values()) if isinstance(arg, Array)]
    with fo.record() as seen:
        try:
            found = _differentiated(function, args, kwargs)
        except DOCUMENTED as error:
            _clear(error, call)
            found = None
            outcome = f"raised {type(error).__name__}"
        except Exception as error:
            if _by_user(error):
                return "raised by the user's function"
            raise BrokenError(_undocumented(error, call)) from error
        else:
            outcome = "returned"
    for old, new in zip(before, (*args, *kwargs.values()), strict=True):
        if isinstance(old, Tensor) and not _same(old, new):
            raise BrokenError(f"an argument was changed in place:\n{call!r}")
    if found is None or not isinstance(found[0], Tensor):
        return outcome
    x, gradients, status = found
    failed = any(bool(fo.Status.failed(event.status).any()) for event in seen)
    failed = failed or bool(fo.Status.failed(torch.as_tensor(status)).any())
    if not call.spoiled:
        if call.shape is not None and tuple(x.shape) != call.shape:
            raise BrokenError(f"shape {tuple(x.shape)} in place of {call.shape}:\n{call!r}")
        dtype = next((array.dtype for array in arrays if array.dtype[:5] == "float"), None)
        if dtype and x.is_floating_point() and x.dtype != getattr(torch, dtype):
            raise BrokenError(f"{x.dtype} in place of {dtype}:\n{call!r}")
    regular = all(array.regular or array.dtype != "float64" for array in arrays)
    regular = regular and all(array.finite for array in arrays) and not call.spoiled
    if regular and not failed and not _finite(x) and "float32" not in repr(call):
        raise BrokenError(f"not finite, and no status says so: {x}\n{call!r}")
    if regular and not failed and call.smooth and all(a.dtype == "float64" for a in arrays):
        outcome += _compare(call, function, args, kwargs, gradients)
    return outcome


def _made(call: Call) -> tuple[Any, list[Any], dict[str, Any]]:
    """What the call consists of; leaves require grad."""

    def made(argument: Any) -> Any:
        if isinstance(argument, Array):
            value = argument.make()
            return value.requires_grad_() if value.is_floating_point() else value
        return eval(argument.text, dict(NAMESPACE))

    args = [made(argument) for argument in call.args]
    kwargs = {name: made(argument) for name, argument in call.kwargs}
    return eval(call.function, dict(NAMESPACE)), args, kwargs


def _first(found: Any) -> Any:
    """The first tensor of what is returned."""
    while isinstance(found, (tuple, list)) and len(found):
        found = found[0]
    return found


def _loss(x: Tensor) -> Tensor:
    return (x * _normal(0, x)).sum()


def _normal(seed: int, like: Tensor) -> Tensor:
    """The same numbers at each call: without structure, lest two sides of a kink cancel."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return numbers.to(like.device, like.dtype)


def _differentiated(function: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The first tensor that comes back, its gradients, and the statuses if there are any."""
    found = function(*args, **kwargs)
    status = found.status if isinstance(found, fo.Solution) and found.status is not None else 0
    x = _first(found)
    leaves = [arg for arg in (*args, *kwargs.values()) if _is_leaf(arg)]
    gradients: Any = None
    if isinstance(x, Tensor) and x.requires_grad:
        gradients = torch.autograd.grad(_loss(x), leaves, allow_unused=True)
    return (x.detach() if isinstance(x, Tensor) else x), gradients, status


def _is_leaf(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.requires_grad


def _compare(
    call: Call, function: Any, args: list[Any], kwargs: dict[str, Any], gradients: Any
) -> str:
    """The derivative along one direction, by the gradient and by finite differences."""
    leaves = [arg for arg in (*args, *kwargs.values()) if _is_leaf(arg)]
    if gradients is None or not leaves:
        return ""
    directions = [_normal(1 + i, leaf) for i, leaf in enumerate(leaves)]
    along = sum(
        float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None
    )

    def value(size: float, directions: list[Tensor] = directions) -> float:
        ids = {id(leaf): size * d for leaf, d in zip(leaves, directions, strict=True)}

        def moved(arg: Any) -> Any:
            return arg.detach() + ids[id(arg)] if id(arg) in ids else arg

        with fo.record() as seen:
            x = _first(function(*map(moved, args), **{k: moved(a) for k, a in kwargs.items()}))
        if any(bool(fo.Status.failed(event.status).any()) for event in seen):
            raise ValueError("failed nearby")
        return float(_loss(x.detach()))

    size = 1e-4
    try:
        middle = value(0.0)
        near, far = ((value(h), value(-h)) for h in (size / 2, size))
    except DOCUMENTED:
        return ""
    slope = (near[0] - near[1]) / size
    wide = (far[0] - far[1]) / (2 * size)
    # What curvature makes of this falls with the size of the step; what a kink makes of it stays.
    bend = abs(near[0] + near[1] - 2 * middle) / (size / 2)
    wider = abs(far[0] + far[1] - 2 * middle) / size
    if not all(map(np.isfinite, (slope, wide, bend, wider))):
        return ""
    scale = 1 + abs(slope)
    if abs(slope - wide) > 1e-4 * scale or (bend > 1e-6 * scale and bend > 0.75 * wider):
        return ""
    if not np.isfinite(along) or abs(along - slope) > 1e-3 * scale:
        if not _linear(leaves, directions, value, slope, scale):
            return ""
        raise BrokenError(f"the derivative is {along}, by finite differences {slope}:\n{call!r}")
    return ", right gradient"


def _linear(
    leaves: list[Tensor], directions: list[Tensor], value: Any, slope: float, scale: float
) -> bool:
    """Whether the slopes along the coordinates make up the one along the direction.

    At a kink they may not, although both sides of it look alike along one direction.
    """
    size, total = 1e-5, 0.0
    for i, direction in enumerate(directions):
        for j in range(direction.numel()):
            alone = [leaf.new_zeros(leaf.shape) for leaf in leaves]
            alone[i].view(-1)[j] = direction.reshape(-1)[j]
            try:
                ends = value(size, alone), value(-size, alone), value(0.0, alone)
            except DOCUMENTED:
                return False
            if abs(ends[0] + ends[1] - 2 * ends[2]) > 1e-3 * size:
                return False
            total += (ends[0] - ends[1]) / (2 * size)
    return abs(total - slope) <= 1e-3 * scale


def _copy(arg: Any) -> Any:
    return arg.detach().clone() if isinstance(arg, Tensor) and not arg.is_sparse else None


def _same(old: Tensor, new: Tensor) -> bool:
    new = new.detach()
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    return bool(((old == new) | ((old != old) & (new != new))).all())


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _undocumented(error: BaseException, call: Call) -> str:
    where = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in where if "/foldopt/" in frame.filename] or list(where)
    place = f"{ours[-1].filename.split('/src/')[-1]}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {place}: {str(error)[:200]}\n{call!r}"


def _by_user(error: BaseException) -> bool:
    """Whether it was raised in one of the functions that a user brings, on odd arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    return any("fuzz/functions" in frame.filename for frame in frames)


def _named() -> set[str]:
    """Every public name, and every argument of one: what a message may name."""
    names = {"cpu", "cuda", "x", "multipliers", "status", "sample", "samples"}
    rooms = (fo, fo.nn, fo.steps, fo.solvers, fo.prox, fo.projections, fo.operators, fo.diagnose)
    for room in rooms:
        for name in room.__all__:
            made = getattr(room, name)
            names.add(name)
            calls = [vars(made).get("__call__")] if isinstance(made, type) else []
            for called in (made, getattr(made, "forward", None), *calls):
                with contextlib.suppress(TypeError, ValueError):
                    names |= set(inspect.signature(called).parameters)  # type: ignore[arg-type]
    # Of one letter, only those that no sentence holds by chance.
    return {name for name in names | {"CvxpyLayer"} if len(name) > 1 or name not in "aiI"}


NAMES = _named()


def _clear(error: BaseException, call: Call) -> None:
    """Raise unless the message is ours, and names an argument or a public name."""
    text = str(error)
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if _by_user(error) or isinstance(error, ImportError):
        return
    if not set(re.findall(r"\w+", text)) & NAMES:
        raise BrokenError(
            f"{type(error).__name__} names nothing: {text[:200]!r}\n{call!r}"
        ) from error
    if not any(part in frames[-1] for part in ("/foldopt/", "/fuzz/")):
        raise BrokenError(_undocumented(error, call)) from error
