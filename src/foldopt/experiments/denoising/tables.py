"""The tables of the denoising study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from foldopt.experiments.denoising.plan import Case, Config, cases, training_key
from foldopt.experiments.frame import Table
from foldopt.experiments.statistics import Interval, mean_interval

__all__ = [
    "error_table",
    "fixed_errors",
    "gain",
    "photograph_table",
    "qpth_table",
    "speed_ratios",
    "speed_table",
]

Results = dict[str, Any]


def trainings(config: Config, results: Results, case: Case, form: str) -> list[Any]:
    """The results of all seeds."""
    keys = (training_key(case, form, "folded", seed) for seed in range(config.seeds))
    return [results[key] for key in keys]


def fixed_errors(config: Config, results: Results, sigma: float) -> list[float]:
    """Of fixed total variation at its best λ: the test error of each seed."""
    return [results[f"sigma-{sigma:g}-fixed-seed-{s}"]["test"] for s in range(config.seeds)]


def gain(config: Config, results: Results, case: Case, form: str) -> Interval:
    """By how much training lowers the test error: the mean over seeds of paired differences."""
    found = trainings(config, results, case, form)
    return mean_interval([one["before"] - one["after"] for one in found])


def error_table(config: Config, results: Results) -> Table:
    """Test errors with D fixed and learned."""
    rows = []
    for case in cases(config):
        first = trainings(config, results, case, config.forms[0])
        row = [case.name, _mean(first, "noisy"), _mean(first, "before")]
        for form in config.forms:
            row.append(_mean(trainings(config, results, case, form), "after"))
            row.append(gain(config, results, case, form).text(_decimals(case)))
        row.append(mean_interval(fixed_errors(config, results, case.sigma)).text(2))
        rows.append(tuple(row))
    learned = [column for form in config.forms for column in (f"D learned, {form}", "lower by")]
    return Table(
        "Test MSE with D fixed and learned",
        ("case", "noisy", "D fixed", *learned, "D fixed, best λ"),
        tuple(rows),
        f"Means over {config.seeds} seeds, ± their 95 % interval where there are several. "
        "“Lower by” is the mean of paired differences. Weights are those of the epoch with the "
        "least validation error; the best λ of a fixed D is looked for on the training signals.",
    )


def _decimals(case: Case) -> int:
    return 2 if case.sigma > 1 else 3


def _mean(found: Iterable[Any], name: str) -> str:
    values = [one[name] for one in found]
    return mean_interval(values).text(2 if max(values) > 2 else 3)


def qpth_table(config: Config, results: Results, pairs: list[tuple[Case, str]]) -> Table:
    """The same training by f-FDPG and by qpth, epoch by epoch."""
    form = config.forms[0]
    rows = []
    for case, key in pairs:
        theirs = results[key]
        ours = results[training_key(case, form, "folded", 0)]
        for epoch, (one, other) in enumerate(zip(ours["curve"], theirs["curve"], strict=False)):
            rows.append((case.name, str(epoch), f"{one:.5g}", f"{other:.5g}", f"{other - one:.1e}"))
        rows.append(
            (
                case.name,
                "seconds an epoch",
                f"{ours['epoch_seconds']:.1f}",
                f"{theirs['epoch_seconds']:.1f}",
                f"× {theirs['epoch_seconds'] / ours['epoch_seconds']:.0f}",
            )
        )
    return Table(
        "The same training by f-FDPG and by qpth: validation MSE after each epoch",
        ("case", "epoch", "f-FDPG", "qpth", "difference"),
        tuple(rows),
        "Same signals, batches and Adam. Scores are those of the exact solution for both. Epochs "
        "are timed with other jobs beside them: the table of seconds a batch is the fair one.",
    )


def speed_table(results: Results, timed: list[tuple[Case, str]]) -> Table:
    """Seconds a batch, and errors."""
    rows = []
    for case, key in timed:
        for operator, methods in results[key].items():
            label = f"{case.name}, D {operator}"
            for method, of in methods.items():
                both = of["forward"] + of["backward"]
                rows.append(
                    (
                        label,
                        method,
                        f"{1e3 * of['forward']:.1f}",
                        f"{1e3 * of['backward']:.1f}",
                        f"{1e3 * both:.1f}",
                        f"{of['x']:.0e}",
                        f"{of['gradient']:.0e}",
                        f"{of['factor']:.3g}",
                    )
                )
                label = ""
    return Table(
        "Milliseconds a batch, and accuracy",
        ("layer", "method", "forward", "backward", "both", "error of x", "of ∂L/∂D", "its scale"),
        tuple(rows),
        "One thread, nothing beside it, the fastest of several. Errors are relative, against a "
        "solution at rounding and a gradient written out by linear algebra on the active set. The "
        "scale is the multiple of the right gradient that was found: 1, but for qpth with a D that "
        "the batch shares.",
    )


def speed_ratios(results: Results, timed: list[tuple[Case, str]]) -> list[dict[str, float]]:
    """How much longer qpth takes than the fastest f-FDPG that is no less accurate."""
    found = []
    for _, key in timed:
        for methods in results[key].values():
            ours = [of for name, of in methods.items() if name.startswith("f-FDPG")]
            theirs = [
                of
                for name, of in methods.items()
                if name.startswith("qpth") and "as it" not in name
            ]
            for other in theirs:
                fit = [
                    of
                    for of in ours
                    if of["x"] <= other["x"] and of["gradient"] <= other["gradient"]
                ]
                if fit:
                    best = min(fit, key=lambda of: of["forward"] + of["backward"])
                    found.append(
                        {
                            "forward": other["forward"] / best["forward"],
                            "backward": other["backward"] / best["backward"],
                            "both": (other["forward"] + other["backward"])
                            / (best["forward"] + best["backward"]),
                        }
                    )
    return found


def photograph_table(found: list[Any]) -> Table:
    """PSNR on the test part of the photograph."""

    def row(name: str, label: str, weight: str | None) -> tuple[str, ...]:
        gains = [one[name] - one["fixed 2"] for one in found]
        weights = sorted({one["weights"][weight] for one in found}) if weight else []
        return (
            label,
            ", ".join(f"{value:g}" for value in weights) or "–",
            mean_interval([one[name] for one in found]).text(2),
            mean_interval(gains).text(2),
        )

    return Table(
        "A photograph: PSNR in dB on a part that was not trained on",
        ("method", "λ", "PSNR", "above fixed, 2 directions"),
        (
            row("noisy", "noisy", None),
            row("fixed 2", "differences in 2 directions, best λ on the test part", "fixed 2"),
            row("fixed 4", "differences in 4 directions, best λ on the test part", "fixed 4"),
            row("before", "kernels before training, λ from the patches", "learned"),
            row("learned", "kernels learned", "learned"),
        ),
        f"Means over {len(found)} draws of noise and patches, ± their 95 % interval.",
    )
