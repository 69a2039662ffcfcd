"""What follows from the numbers of the denoising study: the verdict, and the findings."""

from __future__ import annotations

from typing import Any

from foldopt.experiments.denoising import tables
from foldopt.experiments.denoising.plan import Case, Config, cases, training_key
from foldopt.experiments.frame.report import Verdict
from foldopt.experiments.statistics import mean_interval

__all__ = ["findings", "judge"]


def judge(
    config: Config, results: dict[str, Any], ratios: list[dict[str, float]]
) -> tuple[Verdict, str]:
    """Each part of the claim, and the whole.

    Parameters
    ----------
    config, results
        What was run, and what each job gave.
    ratios
        Of :func:`~foldopt.experiments.denoising.tables.speed_ratios`; none without qpth.

    Returns
    -------
    str, str
        The verdict, and its reasons.
    """
    every = cases(config)
    lower = {
        form: [tables.gain(config, results, case, form).mean > 0 for case in every]
        for form in config.forms
    }
    parts = [
        f"With a {form} D, training lowers the test MSE in {sum(won)} of {len(every)} cases."
        for form, won in lower.items()
    ]
    sure = [
        any(
            tables.gain(config, results, case, form).mean > 0
            and tables.gain(config, results, case, form).excludes_zero
            for form in config.forms
        )
        for case in every
    ]
    if config.seeds > 1:
        parts.append(
            f"In the better of the two forms the gain is more than chance (95 % interval over "
            f"seeds) in {sum(sure)} of {len(every)}."
        )
    fast = None
    if ratios:
        low, high = (pick(ratio["both"] for ratio in ratios) for pick in (min, max))
        back = max(ratio["backward"] for ratio in ratios)
        fast = high >= 40
        parts.append(
            f"Against the fastest f-FDPG that is no less accurate, qpth takes {low:.0f} to "
            f"{high:.0f} times as long for a batch, forward and backward; for the backward pass "
            f"alone, at most {back:.0f} times."
        )
    else:
        parts.append("qpth is not installed, or was left out: its speed was not compared.")
    # A form of our own cannot bear out what the paper says of a free D.
    if "free" in lower and all(lower["free"]) and fast:
        return "reproduced", " ".join(parts)
    some = any(won for each in lower.values() for won in each)
    return ("partly reproduced" if some or fast else "not reproduced"), " ".join(parts)


def findings(
    config: Config,
    results: dict[str, Any],
    qpth: list[tuple[Case, str]],
    photographs: list[Any],
) -> list[str]:
    """What else was seen.

    Parameters
    ----------
    config, results
        What was run, and what each job gave.
    qpth
        The cases that qpth was trained on, with the keys of their jobs.
    photographs
        The results of the photograph's jobs.

    Returns
    -------
    list of str
        A sentence each.
    """
    found = []
    paper = config.forms[0]
    for case in cases(config):
        best = mean_interval(tables.fixed_errors(config, results, case.sigma)).mean
        after = {
            form: mean_interval(
                [one["after"] for one in tables.trainings(config, results, case, form)]
            ).mean
            for form in config.forms
        }
        form = min(after, key=lambda one: after[one])
        side = "below" if after[form] < best else "above"
        found.append(
            f"{case.name}: the learned D ({form}) ends at {after[form]:.3g}, {side} the "
            f"{best:.3g} that first differences reach with nothing but the best λ."
        )
    if "free" in config.forms:
        found += _unlearned(config, results)
    for case, key in qpth:
        ours, theirs = results[training_key(case, paper, "folded", 0)], results[key]
        gap = max(
            abs(one - other) for one, other in zip(ours["curve"], theirs["curve"], strict=False)
        )
        found.append(
            f"{case.name}: trained by qpth's gradients, the validation error differs by at most "
            f"{gap:.1e} from that of f-FDPG at the same epoch."
        )
    if photographs:
        gains = mean_interval([one["learned"] - one["fixed 2"] for one in photographs])
        found.append(
            f"On the photograph, learned kernels are {gains.text(2)} dB above fixed differences at "
            "the λ that is best for the very test image."
        )
    return found


def _unlearned(config: Config, results: dict[str, Any]) -> list[str]:
    """What the first epoch does to a free D."""
    worse = []
    for case in cases(config):
        curves = [one["curve"] for one in tables.trainings(config, results, case, "free")]
        ratio = mean_interval([curve[1] / curve[0] for curve in curves]).mean
        if ratio > 1:
            worse.append(f"{case.name} (× {ratio:.2g})")
    if not worse:
        return []
    return [
        "The first epoch with a free D makes the validation error larger, not smaller, at "
        f"{', '.join(worse)}: the drift of the rows' sums costs more than the gradient gains."
    ]
