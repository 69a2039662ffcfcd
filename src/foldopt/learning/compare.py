"""Both trainings on one task in one call, with all else the same."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foldopt.learning.examples import Examples
from foldopt.learning.loop import Epoch, History, Training
from foldopt.learning.methods import end_to_end, predict, two_stage
from foldopt.learning.regret import Objective, regret
from foldopt.status import FoldError, Solution, Status, tally

__all__ = ["Comparison", "Trained", "compare"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """One of the two trainings, and what its decisions cost.

    Attributes
    ----------
    model
        With the weights of its best epoch, in evaluation mode.
    history
        Of its training; the scores are mean regrets on the validation examples.
    regret
        Of each test example, shape ``(N,)``.
    """

    model: nn.Module
    history: History
    regret: Tensor


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models that differ by their training's loss alone.

    Attributes
    ----------
    two_stage, end_to_end
        The one trained on its prediction's error, and the one trained on its decision's regret.
    optimum
        What the best decision on each test example costs, f(x*(c̄), c̄), shape ``(N,)``: what
        regrets are relative to.
    """

    two_stage: Trained
    end_to_end: Trained
    optimum: Tensor

    @property
    def saved(self) -> tuple[float, float]:
        """By how much the mean test regret is lower end to end, and the standard error of that.

        The error is over test examples, which both models have decided. It says what other examples
        might have given, not what another seed might have.
        """
        gain = self.two_stage.regret - self.end_to_end.regret
        error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan
        return float(gain.mean()), error

    @property
    def summary(self) -> str:
        """A line for each model, and one for what lies between them."""
        scale = float(self.optimum.abs().mean())
        lines = []
        for name, of in (("two-stage", self.two_stage), ("end to end", self.end_to_end)):
            mean = float(of.regret.mean())
            share = f" ({100 * mean / scale:.2f} % of the optimum)" if scale > 0 else ""
            epochs = len(of.history.loss)
            lines.append(
                f"{name}: test regret {mean:.4g}{share}, epoch {of.history.best + 1} of {epochs}, "
                f"{of.history.seconds:.1f} s"
            )
        gain, error = self.saved
        better = "end to end" if gain > 0 else "two-stage"
        if gain == 0:
            judgement = "the two do not differ"
        elif math.isnan(error):
            judgement = (
                f"{better} is lower by {abs(gain):.4g}, on one example, which proves nothing"
            )
        elif abs(gain) > 2 * error:
            judgement = (
                f"{better} is lower by {abs(gain):.4g}, {abs(gain) / error:.1f} standard errors"
            )
        else:
            judgement = (
                f"{better} is lower by {abs(gain):.4g}, less than 2 standard errors ({error:.2g}): "
                "undecided"
            )
        lines.append(f"over {len(self.optimum)} test examples, one seed: {judgement}")
        return "\n".join(lines)


def compare(
    model: nn.Module,
    decide: Callable[..., Tensor],
    objective: Objective,
    train: Examples,
    validation: Examples,
    test: Examples,
    training: Training | None = None,
    *,
    deployed: Callable[..., Any] | None = None,
    on_epoch: Callable[[str, Epoch], None] | None = None,
) -> Comparison:
    r"""Train a model on its error and, from the same weights, on its regret; test both.

    Both get the same initial weights, the same batches in the same order, the same random numbers
    (of a dropout, say), and the choice of their best epoch by the same validation regret.

    Parameters
    ----------
    model
        ``model(features) -> ĉ``. It is copied, and itself left as it is.
    decide
        The solver with its derivative, ``decide(c, *known) -> x``: from
        :func:`~foldopt.folded`, :mod:`foldopt.nn` or an operator.
    objective
        f, as ``objective(x, c, *known)``, to be minimised.
    train, validation, test
        Three sets of examples, none of which the others should hold.
    training
        How to train; None: ``Training()``.
    deployed
        What takes the decisions in validation and test, as ``deployed(c, *known)``: the solver of
        the problem itself, where ``decide`` solves a smoothed one to have a derivative. It needs
        none, and may return a :class:`~foldopt.Solution`. None: ``decide``.
    on_epoch
        Called after each epoch with ``"two-stage"`` or ``"end to end"`` and what the epoch came to.

    Returns
    -------
    Comparison
        Both models with their histories and test regrets, and a ``summary`` in words.

    Raises
    ------
    FoldError
        If a decision cannot be trusted, in training or in the test.
    ValueError
        As for :func:`end_to_end`.

    References
    ----------
    arXiv 2301.12047, section 6.

    Examples
    --------
    The nearest point of the simplex to c, which is 0 or 1 where no line can be right:

    >>> import torch, foldopt as fo
    >>> from foldopt.learning import Examples, Training
    >>> from foldopt.learning.compare import compare
    >>> f = lambda x, c: 0.5 * (x - c).square().sum(-1)
    >>> decide = fo.folded(fo.steps.projected_gradient(f, fo.projections.simplex, 0.5))(
    ...     fo.projections.simplex)
    >>> def examples(count):
    ...     z = torch.rand(count, 1, generator=torch.Generator().manual_seed(count)).double()
    ...     c = torch.cat([2 * z**4, z.new_zeros(count, 1)], -1)
    ...     return Examples(z, c, fo.projections.simplex(c))
    >>> model = torch.nn.Linear(1, 2).double()
    >>> found = compare(model, decide, f, examples(60), examples(40), examples(50), Training(2))
    >>> len(found.end_to_end.history.score), found.two_stage.regret.shape
    (2, torch.Size([50]))
    """
    settings = training or Training()
    act = deployed or decide

    def regrets(candidate: nn.Module, examples: Examples) -> Tensor:
        with torch.no_grad():
            x = _trusted(act(predict(candidate, examples), *examples.known))
            return regret(objective, x, examples.optimal, examples.truth, *examples.known)

    def run(name: str) -> Trained:
        candidate = copy.deepcopy(model)

        def score() -> float:
            return float(regrets(candidate, validation).mean())

        def say(epoch: Epoch) -> None:
            if on_epoch is not None:
                on_epoch(name, epoch)

        with _same_numbers(model, settings.seed):
            if name == "two-stage":
                history = two_stage(candidate, train, score, settings, say)
            else:
                history = end_to_end(candidate, decide, objective, train, score, settings, say)
        return Trained(candidate, history, regrets(candidate, test))

    with torch.no_grad():
        optimum = objective(test.optimal, test.truth, *test.known)
    return Comparison(run("two-stage"), run("end to end"), optimum)


def _trusted(found: Any) -> Tensor:
    if not isinstance(found, Solution):
        return found
    status = None if found.status is None else torch.as_tensor(found.status)
    if status is not None and bool(Status.failed(status).any()):
        raise FoldError(
            f"compare: deployed has not solved every example: {tally(status)}. Its regret would "
            "be of nothing; see the solution's messages",
            status,
        )
    return torch.as_tensor(found.x)


@contextlib.contextmanager
def _same_numbers(model: nn.Module, seed: int) -> Iterator[None]:
    """Random numbers that depend on the seed alone, inside a ``with``; outside none are used up."""
    devices = {p.device.index or 0 for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(sorted(devices)):
        torch.manual_seed(seed)
        yield
