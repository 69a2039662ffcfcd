"""The loop of a training: a loss of one's own, and going on after an interruption."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from foldopt.learning import (
    Epoch,
    Examples,
    History,
    Training,
    end_to_end,
    fit,
    train,
    two_stage,
)

F64 = torch.float64
FEATURES = torch.linspace(-1, 1, 20, dtype=F64)[:, None]
DATA = Examples(FEATURES, FEATURES.square(), FEATURES)
TRAINING = Training(epochs=6, batch_size=8, learning_rate=0.05, seed=3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def error(model: nn.Module, data: Examples = DATA) -> Tensor:
    return (model(data.features) - data.truth).square().mean()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("after", [0, 3, 5])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    after: int, tmp_path: pathlib.Path
) -> None:
    whole = network()
    expected = two_stage(whole, DATA, lambda: error(whole).item(), TRAINING)

    checkpoint = tmp_path / "training.pt"
    seen: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        if epoch.index == after:
            raise Interrupted

    def again(stopping: bool) -> tuple[nn.Module, History]:
        model = network()
        return model, two_stage(
            model,
            DATA,
            lambda: error(model).item(),
            TRAINING,
            stop if stopping else seen.append,
            checkpoint,
        )

    with pytest.raises(Interrupted):
        again(True)
    model, history = again(False)
    assert torch.equal(weights(model), weights(whole))
    assert (history.loss, history.score, history.best) == (
        expected.loss,
        expected.score,
        expected.best,
    )
    assert [epoch.index for epoch in seen] == list(range(6))  # none twice
    assert not model.training

    done, same = again(False)  # all is done: nothing is left to train
    assert torch.equal(weights(done), weights(whole))
    assert same == history


def test_a_loss_and_an_optimizer_of_ones_own() -> None:
    model = network()
    before = weights(model)
    rate = 0.1
    gradient = torch.autograd.grad(error(model), list(model.parameters()))
    fit(
        model,
        lambda batch: error(model, batch),
        DATA,
        lambda: 0.0,
        Training(epochs=1, batch_size=20),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
    )
    step = torch.cat([part.flatten() for part in gradient])
    torch.testing.assert_close(weights(model), before - rate * step, rtol=0, atol=1e-15)


def test_a_checkpoint_of_another_training(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "training.pt"
    model = network()
    two_stage(model, DATA, lambda: 0.0, TRAINING, checkpoint=path)
    other = Training(epochs=6, batch_size=8, learning_rate=0.05, seed=4)
    with pytest.raises(ValueError, match=r"checkpoint .* is of a training with .*'seed': 3"):
        two_stage(model, DATA, lambda: 0.0, other, checkpoint=path)
    small = nn.Linear(1, 1).double()
    with pytest.raises(ValueError, match="does not fit the model or its optimiser"):
        two_stage(small, DATA, lambda: 0.0, TRAINING, checkpoint=path)
    # More epochs may be asked for.
    longer = Training(epochs=8, batch_size=8, learning_rate=0.05, seed=3)
    history = two_stage(model, DATA, lambda: 0.0, longer, checkpoint=path)
    assert len(history.loss) == 8


def test_a_checkpoint_is_read_as_data(tmp_path: pathlib.Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pathlib.Path.touch, (tmp_path / "harm",))  # type: ignore[return-value]

    path = tmp_path / "training.pt"
    torch.save({"training": Harm()}, path)
    with pytest.raises(pickle.UnpicklingError):
        two_stage(network(), DATA, lambda: 0.0, TRAINING, checkpoint=path)
    assert not (tmp_path / "harm").exists()


# -- train(model, layer, data, loss=…) -------------------------------------------------------------


def square(x: Tensor, c: Tensor) -> Tensor:
    return (x - c).square().sum(-1)


@pytest.mark.parametrize("loss", ["regret", "error"])
def test_training_in_one_call_is_the_training_of_its_kind(loss: Literal["regret", "error"]) -> None:
    one, other = network(), network()
    held_back = DATA.take(torch.arange(5))
    found = train(
        one, lambda c: 2 * c, DATA, loss=loss, objective=square, validation=held_back,
        training=TRAINING,
    )  # fmt: skip

    def mean(model: nn.Module) -> float:
        with torch.no_grad():
            c = model(held_back.features)
            if loss == "error":
                return float((c - held_back.truth).square().mean())
            best = square(held_back.optimal, held_back.truth)
            return float((square(2 * c, held_back.truth) - best).mean())

    if loss == "error":
        expected = two_stage(other, DATA, lambda: mean(other), TRAINING)
    else:
        expected = end_to_end(other, lambda c: 2 * c, square, DATA, lambda: mean(other), TRAINING)
    assert found.loss == expected.loss
    assert found.score == pytest.approx(expected.score, rel=1e-12)
    assert torch.equal(weights(one), weights(other))


def test_a_loss_of_ones_own_sees_the_decision_and_the_batch() -> None:
    model = network()
    seen: list[tuple[Tensor, Examples]] = []

    def loss(x: Tensor, batch: Examples) -> Tensor:
        seen.append((x.detach(), batch))
        return (x - 3 * batch.truth).abs().sum(-1)

    history = train(model, lambda c: 3 * c, DATA, loss=loss, training=Training(1, batch_size=20))
    x, batch = seen[-1]  # of the validation, on the data themselves
    assert torch.equal(x, 3 * model(DATA.features).detach())
    assert torch.equal(batch.truth, DATA.truth)
    assert history.score == (pytest.approx(float((x - 3 * DATA.truth).abs().mean())),)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"loss": "other"}, TypeError, "loss must be 'regret', 'error' or a function"),
        ({"loss": "regret"}, ValueError, "needs the objective of the decision"),
        ({"layer": None, "objective": square}, ValueError, "the layer is None"),
    ],
)
def test_what_training_lacks(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        train(network(), **{"layer": lambda c: c, "data": DATA, **arguments})
