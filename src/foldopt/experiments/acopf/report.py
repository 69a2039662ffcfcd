"""What a run of the study of optimal power flow says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.acopf.figures import draw_dispatch, draw_regret
from foldopt.experiments.acopf.plan import (
    FOLDED,
    METHODS,
    NETWORK,
    PREDICTORS,
    TASK,
    TIMES,
    TUNED,
    TWO_STAGE,
    Config,
    Spec,
    plan,
)
from foldopt.experiments.frame import (
    Figure,
    Report,
    Table,
    adjoint_table,
    certificate_table,
    merge_certificates,
)
from foldopt.experiments.frame.report import Verdict
from foldopt.experiments.statistics import mean_interval
from foldopt.nn.acopf import read_grid

__all__ = ["judge", "report", "saved"]

CLAIM = (
    "arXiv 2312.17394, abstract and summary: folded optimization builds efficient backpropagation "
    "through solvers, for nonconvex programs and blackbox solvers too, with advantages in time and "
    "flexibility on learning tasks, AC optimal power flow among them. Only these parts of the "
    "paper were at hand; no number of its own is compared with."
)
# What the backward pass may cost of the forward pass to be called cheap.
_CHEAP = 0.2


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """Draw the figures, and say what came out.

    Parameters
    ----------
    config, results, folder
        As the frame hands them over.

    Returns
    -------
    Report
        Complete.
    """
    grid = read_grid(f"case{config.case}")
    shown = results[Spec(NETWORK, TUNED, 0).key]["shown"]
    draw_dispatch(grid, shown, folder / "dispatch.png")
    draw_regret(config, results, folder / "regret.png")
    verdict, why = judge(config, results)
    times = results[TIMES]
    layers = {"Newton–KKT (f-SQP, α = 1)": times["adjoints"]} if "adjoints" in times else {}
    return Report(
        claim=CLAIM,
        ran=_ran(config, results),
        choices=_choices(config),
        verdict=verdict,
        why=why,
        findings=tuple(_findings(results)),
        tables=(
            _regrets(config, results),
            _decisions(config, results),
            *([adjoint_table(layers)] if layers else []),
            certificate_table(
                {
                    f"{predictor}, {method}": merge_certificates(
                        [one["certificates"] for one in _of(config, results, predictor, method)]
                    )
                    for predictor in PREDICTORS
                    for method in (FOLDED, TUNED)
                }
            ),
        ),
        figures=(
            Figure(
                "dispatch.png",
                f"A test sample on the grid of {config.case} buses, that whose cost falls by the "
                "median in training: dispatch for the costs that the network predicts before and "
                "after training by two stages and folding, and the best one. "
                "Squares: generation, with its MW; discs: loads; lines: branches. The places of "
                "the buses are those of a spring layout.",
            ),
            Figure("regret.png", "Validation regret by epoch: mean and range over seeds."),
        ),
    )


def _of(
    config: Config, results: dict[str, Any], predictor: str, method: str
) -> list[dict[str, Any]]:
    """The results of all seeds."""
    return [
        results[spec.key]
        for spec in plan(config)
        if (spec.predictor, spec.method) == (predictor, method)
    ]


def saved(config: Config, results: dict[str, Any], predictor: str, method: str) -> list[float]:
    """Two-stage test regret less that of a method, seed by seed, in percent of the least cost."""
    both = (_of(config, results, predictor, one) for one in (TWO_STAGE, method))
    return [first["regret"] - second["regret"] for first, second in zip(*both, strict=True)]


def judge(config: Config, results: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict: whether folding trains better, and whether its backward pass is cheap.

    Returns
    -------
    verdict, why
        The latter a paragraph.
    """
    times = results[TIMES]
    cheap = times["backward"] <= _CHEAP * times["forward"]
    gains = {
        (predictor, method): mean_interval(saved(config, results, predictor, method))
        for predictor in PREDICTORS
        for method in (FOLDED, TUNED)
    }
    clear = {pair: gain.mean for pair, gain in gains.items() if gain.excludes_zero}
    ahead = [pair for pair, mean in clear.items() if mean > 0]
    behind = [pair for pair, mean in clear.items() if mean < 0]
    gained = ", ".join(f"{gain.text(3)} ({_named(pair)})" for pair, gain in gains.items())
    why = (
        f"A sample's backward pass takes {1e3 * times['backward']:.2f} ms, "
        f"{100 * times['backward'] / times['forward']:.1f} % of the {1e3 * times['forward']:.1f} "
        "ms of its forward pass, Ipopt included. Two-stage test regret less that of training "
        "through the dispatch, in percent of the least cost, over "
        f"{config.seeds} seed(s): {gained}. "
    )
    if config.seeds < 2:
        return "cannot be tested", f"{why}One seed tells nothing about chance: run --seeds 5."
    why += "The backward pass is cheap" if cheap else "The backward pass is not cheap"
    for pairs, text in ((ahead, "lower"), (behind, "higher")):
        if pairs:
            why += f"; regret is {text} beyond chance with {' and '.join(map(_named, pairs))}"
    if not clear:
        why += "; no difference of regret is beyond chance"
    why += "."
    both = {predictor for predictor, _ in ahead} == set(PREDICTORS)
    if cheap and both and not behind:
        return "reproduced", why
    return ("partly reproduced" if cheap or ahead else "not reproduced"), why


def _named(pair: tuple[str, str]) -> str:
    predictor, method = pair
    return f"{predictor}, {method}"


def _ran(config: Config, results: dict[str, Any]) -> str:
    total = results[TASK]["total"]
    return (
        f"MATPOWER's case{config.case} as PYPOWER has it, quadratic costs, {total:.0f} MW of load; "
        f"{results[TIMES]['n']} variables. {config.train} examples to train on, "
        f"{config.validation} to choose the epoch by, {config.test} for the test, "
        f"{config.seeds} seed(s) of data and weights, {config.epochs} epochs of Adam "
        f"({config.learning_rate:g}), batches of {config.batch_size}."
    )


def _choices(config: Config) -> tuple[str, ...]:
    return (
        "The task is known from the authors' code alone, and is degenerate there: one factor "
        "multiplies all costs, so that the best dispatch never moves, and every sample has the "
        "same loads. Here each generator answers the weather in its own way: c = c₀ (1 + Σ aφ), "
        "with φ for heat, cold and change, a drawn for each generator between "
        f"−{config.response / 2:g} and {config.response:g}, and a random factor that no weather "
        f"explains (σ = {config.noise:g}). Loads vary by bus (σ = {config.spread:g}, correlation "
        "0.8, cut at 25 %), and are known when the grid is dispatched.",
        "The program is posed in z = (va, vm, pg, qg), with all limits. The authors' variables "
        "hold differences of angles beside the angles, untied to them: their optimum is below "
        "that of the grid. Their gradient takes the quadratic coefficient for the linear one, and "
        "their backward pass leaves the bounds out.",
        "Quadratic costs of MATPOWER in the place of PGLib's linear ones, where only generators "
        "at the margin respond to prices.",
        f"The network has four hidden layers of {config.hidden} as in the authors' code; its "
        "output goes through a softplus in units of the grid's costs, where theirs has a ReLU: a "
        "cost of zero has no unique dispatch. A predictor without hidden layers, which cannot "
        "learn this weather, stands beside it.",
        "Two-stage minimises the squared error of the coefficients in those units (the authors: "
        "L1). Both methods have the same data, initial weights, batches, steps and optimiser, "
        "and their epoch chosen by validation regret.",
        "Folded training minimises regret from the first step on. The regret has no slope where a "
        "predicted cost keeps a generator at its limit, and training can stay there: “tuned” "
        f"begins with {config.two_stage} epochs of two-stage training, and then folds.",
        "The loss of folding is the regret relative to the least cost; the authors' cost gap over "
        "10⁵ is the same but for its unit.",
    )


def _findings(results: dict[str, Any]) -> list[str]:
    task = results[TASK]
    lines = [
        f"All costs times 1.3, as in the authors' task, move no generator by more than "
        f"{task['common']:.0e} MW; here pg varies with a deviation of up to {task['own']:.0f} MW."
    ]
    refused = sum(found.get("refused", 0) for found in results.values())
    if refused:
        lines.append(f"{refused} draws of loads had no feasible dispatch, and were replaced.")
    return lines


def _regrets(config: Config, results: dict[str, Any]) -> Table:
    rows = []
    for predictor in PREDICTORS:
        for method in METHODS:
            found = _of(config, results, predictor, method)
            rows.append(
                (
                    f"{predictor}, {method}",
                    mean_interval([one["untrained"] for one in found]).text(2),
                    mean_interval([one["regret"] for one in found]).text(2),
                    mean_interval([one["error"] for one in found]).text(3),
                    mean_interval([one["seconds"] for one in found]).text(0),
                )
            )
    return Table(
        "Test regret, in percent of the least cost",
        ("training", "untrained", "trained", "error of the factors (rms)", "seconds"),
        tuple(rows),
        "Mean over seeds with its 95 % interval. Seconds include validation, with jobs beside "
        "each other.",
    )


def _decisions(config: Config, results: dict[str, Any]) -> Table:
    times = results[TIMES]
    rows = []
    for predictor in PREDICTORS:
        for method in METHODS:
            found = _of(config, results, predictor, method)
            rows.append(
                (
                    f"{predictor}, {method}",
                    f"{max(one['equality'] for one in found):.0e}",
                    f"{max(one['inequality'] for one in found):.0e}",
                    str(sum(one["failed"] for one in found)),
                    f"{1e3 * times['forward']:.1f}",
                    "–" if method == TWO_STAGE else f"{1e3 * times['backward']:.2f}",
                )
            )
    return Table(
        "The decisions on test data, and what a sample costs",
        (
            "training",
            "worst equality violation (p.u.)",
            "worst inequality violation (p.u.)",
            "not solved",
            "forward, ms",
            "backward, ms",
        ),
        tuple(rows),
        "Times of one sample with nothing else running: medians of eight samples, each the best of "
        "five.",
    )
