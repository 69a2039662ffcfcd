"""Two trainings in one call: all the same but the loss, and honest about what lies between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.learning import Epoch, Examples, History, Training, end_to_end, mean_regret, two_stage
from foldopt.learning.compare import Comparison, Trained, compare

F64 = torch.float64
project = fo.projections.simplex


def value(x: Tensor, c: Tensor) -> Tensor:
    return 0.05 * x.square().sum(-1) - (c * x).sum(-1)


def best(c: Tensor) -> Tensor:
    return project(10 * c)


decide = fo.folded(fo.steps.projected_gradient(value, project, 1.0))(best)


def problems(count: int, seed: int) -> Examples:
    """Whether z⁶ is above 0.1, where a line fitted to it changes sign elsewhere."""
    z = torch.rand(count, 1, dtype=F64, generator=torch.Generator().manual_seed(seed))
    truth = torch.cat([z**6 - 0.1, torch.zeros_like(z)], -1)
    return Examples(z, truth, best(truth))


PARTS = problems(60, 0), problems(40, 1), problems(50, 2)


def each(change: Callable[[Examples], Examples]) -> tuple[Examples, Examples, Examples]:
    train, validation, test = PARTS
    return change(train), change(validation), change(test)


TRAINING = Training(epochs=3, batch_size=16, learning_rate=0.05, seed=4)


def linear() -> nn.Module:
    model = nn.Linear(1, 2, dtype=F64)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def by_hand(model: nn.Module, end: bool) -> tuple[History, float]:
    train, validation, test = PARTS

    def cost(part: Examples) -> float:
        with torch.no_grad():
            return mean_regret(value, best(model(part.features)), part.optimal, part.truth)

    def score() -> float:
        return cost(validation)

    if end:
        history = end_to_end(model, decide, value, train, score, TRAINING)
    else:
        history = two_stage(model, train, score, TRAINING)
    return history, cost(test)


def test_it_is_what_the_two_trainings_give_by_hand() -> None:
    model = linear()
    found = compare(model, decide, value, *PARTS, TRAINING)
    assert all(bool((parameter == 0).all()) for parameter in model.parameters())
    for end, part in ((False, found.two_stage), (True, found.end_to_end)):
        other = linear()
        history, cost = by_hand(other, end)
        assert part.history.loss == history.loss
        assert part.history.score == history.score
        assert part.history.best == history.best
        assert float(part.regret.mean()) == pytest.approx(cost, rel=1e-12)
        for mine, theirs in zip(part.model.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert not part.model.training
    test = PARTS[2]
    assert torch.equal(found.optimum, value(test.optimal, test.truth))


def test_regret_wins_where_the_model_cannot_be_right_and_the_summary_says_so() -> None:
    training = Training(epochs=150, batch_size=60, learning_rate=0.02)
    found = compare(linear(), decide, value, *PARTS, training)
    assert found.end_to_end.regret.mean() < 0.5 * found.two_stage.regret.mean()
    gain, error = found.saved
    difference = found.two_stage.regret - found.end_to_end.regret
    assert gain == pytest.approx(float(difference.mean()))
    assert error == pytest.approx(float(difference.std()) / 50**0.5)
    assert "over 50 test examples, one seed: end to end is lower by" in found.summary
    assert "standard errors" in found.summary
    assert f"test regret {float(found.two_stage.regret.mean()):.4g}" in found.summary


def made_up(two_stage: Tensor, end: Tensor) -> Comparison:
    history = History((1.0,), (1.0,), 0, 0.0)
    first, second = (Trained(nn.Identity(), history, regret) for regret in (two_stage, end))
    return Comparison(first, second, torch.full_like(end, -4.0))


@pytest.mark.parametrize(
    ("two_stage", "end", "says"),
    [
        ([1.0, 1.0, 1.1], [2.0, 2.1, 2.0], "two-stage is lower by 1, "),
        ([1.0, 5.0, 1.0], [2.0, 2.0, 2.0], "end to end is lower by 0.3333, less than 2 standard"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "the two do not differ"),
        ([3.0], [2.0], "on one example, which proves nothing"),
    ],
)
def test_the_summary_claims_no_more_than_there_is(
    two_stage: list[float], end: list[float], says: str
) -> None:
    summary = made_up(torch.tensor(two_stage), torch.tensor(end)).summary
    assert says in summary
    assert f"({100 * sum(end) / len(end) / 4:.2f} % of the optimum)" in summary


def test_both_see_the_same_random_numbers_and_use_up_none() -> None:
    """Regret on the squared error is the two-stage loss: then nothing at all may differ."""

    def error(x: Tensor, c: Tensor) -> Tensor:
        return (x - c).square().mean(-1)

    parts = each(lambda part: dataclasses.replace(part, optimal=part.truth))
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(1, 8, dtype=F64), nn.BatchNorm1d(8, dtype=F64), nn.Dropout(0.5),
        nn.Linear(8, 2, dtype=F64),
    )  # fmt: skip
    state = torch.get_rng_state()
    found = compare(model, lambda c: c, error, *parts, TRAINING)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.two_stage.history.loss == pytest.approx(found.end_to_end.history.loss, rel=1e-12)
    states = found.two_stage.model.state_dict(), found.end_to_end.model.state_dict()
    torch.testing.assert_close(*states)
    assert found.saved == pytest.approx((0, 0), abs=1e-12)


def test_what_is_deployed_decides_in_validation_and_test_only() -> None:
    """Trained on a smoothed decision, tested on the corner that a linear objective prefers."""

    def linear_value(x: Tensor, c: Tensor) -> Tensor:
        return -(c * x).sum(-1)

    def corner(c: Tensor) -> fo.Solution:
        assert not c.requires_grad
        return fo.Solution(nn.functional.one_hot(c.argmax(-1), 2).to(F64), [0] * len(c))

    parts = each(lambda part: dataclasses.replace(part, optimal=corner(part.truth).x))
    found = compare(linear(), decide, linear_value, *parts, TRAINING, deployed=corner)
    test = parts[2]
    for part in (found.two_stage, found.end_to_end):
        wrong = part.model(test.features).argmax(-1) != test.truth.argmax(-1)
        expected = torch.where(wrong, test.truth[:, 0].abs(), 0)
        torch.testing.assert_close(part.regret, expected)


def test_a_deployed_solver_that_fails_stops_it() -> None:
    def fails(c: Tensor) -> fo.Solution:
        status = torch.zeros(len(c), dtype=torch.int64)
        status[3] = int(fo.Status.TIME_LIMIT)
        return fo.Solution(best(c), status)

    with pytest.raises(fo.FoldError, match=r"deployed has not solved.*1 TIME_LIMIT.*sample 3"):
        compare(linear(), decide, value, *PARTS, TRAINING, deployed=fails)
    fine = compare(
        linear(), decide, value, *PARTS, TRAINING, deployed=lambda c: fo.Solution(best(c))
    )
    assert bool((fine.end_to_end.regret >= -1e-12).all())


def test_every_epoch_is_told() -> None:
    seen: list[tuple[str, int]] = []

    def say(name: str, epoch: Epoch) -> None:
        seen.append((name, epoch.index))

    compare(linear(), decide, value, *PARTS, TRAINING, on_epoch=say)
    assert seen == [(name, i) for name in ("two-stage", "end to end") for i in range(3)]


def test_known_params_reach_the_decision_and_the_objective() -> None:
    def weighted(x: Tensor, c: Tensor, weight: Tensor) -> Tensor:
        return weight * value(x, c)

    def act(c: Tensor, weight: Tensor) -> Any:
        return decide(c)

    parts = each(
        lambda part: dataclasses.replace(part, known=(torch.full((len(part),), 3.0, dtype=F64),))
    )
    once = compare(linear(), decide, value, *PARTS, TRAINING)
    thrice = compare(linear(), act, weighted, *parts, TRAINING)
    torch.testing.assert_close(thrice.two_stage.regret, 3 * once.two_stage.regret)
    torch.testing.assert_close(thrice.optimum, 3 * once.optimum)
