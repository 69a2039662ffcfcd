"""Weather, and what it does to costs; loads that vary."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.experiments.acopf.plan import Config
from foldopt.learning import Examples
from foldopt.nn.acopf import ACOPF, Dispatch
from foldopt.status import Status, record

__all__ = ["Task", "cost", "decided", "draw", "factors", "layer_of", "loads", "parts_of", "weather"]

_MIDDLE, _SPAN = 65.0, 45.0  # of temperatures, °F
_CORRELATION, _MOST = 0.8, 0.25  # of loads: between buses, and how far from the nominal ones


def layer_of(config: Config, **options: object) -> ACOPF:
    """The grid of a run as a layer; samples without a trustworthy gradient give none."""
    given = {"on_failure": "mask", "executor": "serial", **options}
    return ACOPF(f"case{config.case}", **given)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Task:
    """The examples of one seed.

    Attributes
    ----------
    train, validation, test
        ``features``: both temperatures, scaled; ``truth``: the costs' quadratic and linear
        coefficients, ``(N, 2g)``; ``optimal``: pg; ``known``: the loads pd and qd.
    refused
        How many draws had no solution and were replaced.
    """

    train: Examples
    validation: Examples
    test: Examples
    refused: int


def weather(count: int, random: torch.Generator) -> Tensor:
    """Temperatures of two days in a row, °F: T₀ uniform from 20 to 110, T₁ − T₀ ∼ N(0, 20²)."""
    first = 20 + 90 * torch.rand(count, generator=random, dtype=torch.float64)
    change = 20 * torch.randn(count, generator=random, dtype=torch.float64)
    return torch.stack([first, first + change], -1)


def factors(temperatures: Tensor, responses: Tensor) -> Tensor:
    """By what each generator's costs are multiplied, ``(N, g)``.

    1 + Σ aφ, with φ how hot it is, how cold, and how much it has changed, each between 0 and 1.

    Parameters
    ----------
    temperatures
        T₀ and T₁, ``(N, 2)``.
    responses
        a of each generator, ``(g, 3)``.

    Returns
    -------
    Tensor
        Above 0 as long as no a is below −½: it is not hot and cold at once.

    Examples
    --------
    >>> a = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, -0.2]])
    >>> factors(torch.tensor([[65.0, 110.0], [65.0, 65.0]]), a)
    tensor([[1.5000, 0.8000],
            [1.0000, 1.0000]])
    """
    before, now = temperatures.unbind(-1)
    hot = ((now - _MIDDLE) / _SPAN).clamp(0, 1)
    cold = ((_MIDDLE - now) / _SPAN).clamp(0, 1)
    change = ((now - before).abs() / _SPAN).clamp(0, 1)
    return 1 + torch.stack([hot, cold, change], -1) @ responses.mT


def loads(nominal: Tensor, count: int, spread: float, random: torch.Generator) -> Tensor:
    """Factors of the loads, normal around 1, correlated between buses, within 25 %; ``(N, n)``."""
    common = torch.randn(count, 1, generator=random, dtype=torch.float64)
    own = torch.randn(count, len(nominal), generator=random, dtype=torch.float64)
    moved = _CORRELATION**0.5 * common + (1 - _CORRELATION) ** 0.5 * own
    return 1 + (spread * moved).clamp(-_MOST, _MOST)


def draw(
    config: Config, layer: ACOPF, count: int, responses: Tensor, random: torch.Generator
) -> tuple[Examples, int]:
    """Examples with their best dispatch; draws without one are replaced, and counted."""
    grid = layer.grid
    pd, qd, a, b = (torch.tensor(p) for p in (grid.pd, grid.qd, grid.quadratic, grid.linear))
    kept: list[Examples] = []
    refused = 0
    while sum(map(len, kept)) < count:
        wanted = count - sum(map(len, kept))
        temperatures = weather(wanted, random)
        scale = factors(temperatures, responses)
        unknown = torch.randn(scale.shape, generator=random, dtype=torch.float64)
        scale = scale * (config.noise * unknown - config.noise**2 / 2).exp()
        scaled = loads(pd, wanted, config.spread, random)
        known = scaled * pd, scaled * qd
        with torch.no_grad(), record() as events:
            found = layer(*known, scale * a, scale * b)
        good = ~Status.failed(events.events[-1].status)
        refused += int((~good).sum())
        if refused > 10 * count:
            raise RuntimeError(
                f"acopf: {refused} of {refused + sum(map(len, kept))} draws have no solution. "
                "Lower --spread"
            )
        features = (temperatures - _MIDDLE) / _SPAN
        truth = torch.cat([scale * a, scale * b], -1)
        if bool(good.any()):
            held = tuple(part[good] for part in known)
            kept.append(Examples(features[good], truth[good], found.pg[good], held))
    fields = zip(*((e.features, e.truth, e.optimal, *e.known) for e in kept), strict=True)
    features, truth, optimal, *known = (torch.cat(field) for field in fields)
    return Examples(features, truth, optimal, tuple(known)), refused


def parts_of(config: Config, layer: ACOPF, seed: int) -> Task:
    """Training, validation and test of one seed, with responses of its own."""
    random = torch.Generator().manual_seed(seed)
    uniform = torch.rand(layer.grid.sizes[1], 3, generator=random, dtype=torch.float64)
    responses = config.response * (1.5 * uniform - 0.5)  # from −½ to 1
    sizes = config.train, config.validation, config.test
    parts = [draw(config, layer, size, responses, random) for size in sizes]
    train, validation, test = (part for part, _ in parts)
    return Task(train, validation, test, sum(refused for _, refused in parts))


def cost(pg: Tensor, truth: Tensor) -> Tensor:
    """Of a dispatch under given coefficients, without constants, $/h."""
    a, b = truth.chunk(2, -1)
    return ((a * pg + b) * pg).sum(-1)


def decided(layer: ACOPF, prediction: Tensor, known: tuple[Tensor, ...]) -> Dispatch:
    """The dispatch for predicted coefficients."""
    found = layer(*known, *prediction.chunk(2, -1))
    return Dispatch(*found[:4])
