"""What the multilabel study says: the claim, tables, figures and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.frame import Figure, Report, Table, adjoint_table, certificate_table
from foldopt.experiments.frame.report import Verdict
from foldopt.experiments.multilabel.curves import METRICS, Gap, curves, gap, summary
from foldopt.experiments.multilabel.figures import NAMES, draw_curves, draw_steps
from foldopt.experiments.multilabel.plan import (
    GRADIENTS,
    LOGITS,
    METHODS,
    Config,
    adjoint_key,
    training_key,
)
from foldopt.experiments.multilabel.text import CLAIM, choices, counted, findings, ran

__all__ = ["SAME", "verdict", "write"]

SAME = 0.01  # shares that differ by at most this, at every epoch, count as the same curve


def write(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """Draw the figures, and say what came out.

    Parameters
    ----------
    config
        The settings.
    results
        Of all jobs, by key.
    folder
        Where the figures go.

    Returns
    -------
    Report
        The report.
    """
    draw_curves(config, results, folder / "curves.png")
    draw_steps(config, results, folder / "steps.png")
    gaps = {
        (logits, method): gap(config, results, logits, method)
        for logits in LOGITS
        for method in METHODS
        if method != "exact"
    }
    early = config.trained_epochs("cvxpylayers")
    sensitivity = {logits: gap(config, results, logits, "disturbed", early) for logits in LOGITS}
    judged, why = verdict(config, gaps, sensitivity)
    return Report(
        claim=CLAIM,
        ran=ran(config, results),
        choices=choices(config),
        verdict=judged,
        why=why,
        findings=findings(config, results, gaps),
        tables=(
            _agreement(results[GRADIENTS]),
            _cross_entropy(results[GRADIENTS]),
            _accuracies(config, results),
            _apart(gaps),
            adjoint_table(
                {
                    f"{METHODS[method]}, {NAMES[logits]}": results[adjoint_key(logits)][method]
                    for logits in LOGITS
                    for method in ("pgd", "sqp")
                }
            ),
            certificate_table(
                {
                    f"{METHODS[method]}, {NAMES[logits]}, seed {config.seed}": results[
                        training_key(logits, method, config.seed)
                    ]["certificate"]
                    for logits in LOGITS
                    for method in ("pgd", "sqp")
                }
            ),
        ),
        figures=(
            Figure(
                "curves.png",
                "Training loss, top-1 and top-5 by epoch: means over seeds, with the 95 % interval "
                "of the closed form. Training labels are noisy, test labels are not. The curves of "
                "the folds lie on that of the closed form.",
            ),
            Figure(
                "steps.png",
                "How far the loss of each gradient step is from that of the same training with the "
                "closed form's derivative, the largest over seeds. What is drawn at 1e-18 is "
                "equal bit by bit.",
            ),
        ),
    )


def verdict(
    config: Config,
    gaps: dict[tuple[str, str], Gap | None],
    sensitivity: dict[str, Gap | None],
) -> tuple[Verdict, str]:
    """Whether the curves of the three methods coincide.

    Parameters
    ----------
    config
        The settings.
    gaps
        By logits and method, how far the curves are from those of the closed form.
    sensitivity
        By logits, the same for the closed form with a disturbed gradient, over the epochs that
        cvxpylayers was trained for.

    Returns
    -------
    tuple
        The verdict, and why.
    """
    known = {
        key: found for key, found in gaps.items() if found is not None and key[1] != "disturbed"
    }
    apart = [key for key, found in known.items() if found.train > SAME]
    folds = _points({key: found for key, found in known.items() if key[1] != "cvxpylayers"})
    text = (
        f"Over {counted(config.epochs, 'epoch')}, f-PGDa and f-SQP are at most so many percentage "
        f"points of top-1 from the closed form's curves: {folds}."
    )
    other = {key: found for key, found in known.items() if key[1] == "cvxpylayers"}
    if other:
        epochs = max(found.epochs for found in other.values())
        text += f" cvxpylayers, over {counted(epochs, 'epoch')}: {_points(other)}."
    else:
        text += " cvxpylayers was not trained, so that one of the three curves is missing."
    for logits, method in apart:
        whole = method != "cvxpylayers"
        noise = gaps.get((logits, "disturbed")) if whole else sensitivity[logits]
        if noise is not None:
            own = 2 * noise.train >= known[logits, method].train
            text += (
                f" {METHODS[method]}, {NAMES[logits]}: over the same epochs the closed form's own "
                f"curve moves by {100 * noise.train:.2f} train and {100 * noise.test:.2f} test "
                "points when its gradient is off by 1e-5, so that "
                + (
                    "this much is the sensitivity of training, and not the method's."
                    if own
                    else "the difference is more than the sensitivity of training."
                )
            )
    if any(logits == "normalised" for logits, _ in apart):
        return "not reproduced", f"{text} In the paper's own setting curves can be told apart."
    if apart:
        text += " In the paper's own setting, where no bound is active, they cannot be told apart."
    on_paper = config.data == "cifar100" and config.network in ("auto", "densenet")
    if not on_paper:
        text += " The images are not the paper's, so that this part of the claim stays open."
    return ("reproduced" if on_paper and other and not apart else "partly reproduced"), text


def _points(gaps: dict[tuple[str, str], Gap]) -> str:
    """By logits, the largest distance over methods."""
    said = []
    for logits in dict.fromkeys(logits for logits, _ in gaps):
        of = [found for key, found in gaps.items() if key[0] == logits]
        train, test = max(found.train for found in of), max(found.test for found in of)
        said.append(f"{NAMES[logits]}: {100 * train:.2f} train, {100 * test:.2f} test")
    return "; ".join(said)


# -- tables -----------------------------------------------------------------------------------


def _agreement(found: dict[str, Any]) -> Table:
    rows = []
    for logits in LOGITS:
        of = found[logits]
        name, active = NAMES[logits], f"{of['active']:.2f}"
        for method, row in of["methods"].items():
            errors = [_pair(row[which]) for which in ("loss", "random")]
            times = [f"{1e3 * row[which]:.1f}" for which in ("forward", "backward")]
            rows.append((name, active, method, *errors, *times))
            name = active = ""
    lacking = found["missing"]
    return Table(
        "Gradients on random logits against the closed form",
        ("logits", "active bounds a sample", "derivative", "error, −log x_y: median / worst",
         "error, normal cotangent: median / worst", "forward, ms", "backward, ms"),
        tuple(rows),
        "Relative, in the 2-norm of each sample; samples whose exact gradient is zero are left "
        "out. cvxpylayers' forward is its own solution and the common one."
        + (f" Left out: {lacking}." if lacking else ""),
    )  # fmt: skip


def _pair(values: list[float | None]) -> str:
    return " / ".join("–" if value is None else f"{value:.0e}" for value in values)


def _cross_entropy(found: dict[str, Any]) -> Table:
    rows = []
    for logits in LOGITS:
        of = found[logits]
        gaps = [f"{of['cross-entropy'][name]:.0e}" for name in ("x", "loss", "gradient")]
        rows.append((NAMES[logits], f"{of['active']:.2f}", f"{of['least']:.0e}", *gaps))
    return Table(
        "Is the loss cross-entropy less log k?",
        ("logits", "active bounds a sample", "least x_i", "|x − k softmax c|",
         "|−log x_y − (cross-entropy − log k)|", "|difference of gradients|"),
        tuple(rows),
        "Largest over the random logits. It is where no bound is active, as at the paper's logits.",
    )  # fmt: skip


def _accuracies(config: Config, results: dict[str, Any]) -> Table:
    rows = []
    for logits in LOGITS:
        name = NAMES[logits]
        for method, shown in METHODS.items():
            found = [summary(config, results, logits, method, metric) for metric in METRICS]
            if any(value is None for value in found):
                continue
            active = curves(config, results, logits, method, "active")[:, -1].mean()
            seeds = f"{config.trained_epochs(method)} / {len(config.trained_seeds(method))}"
            cells = [interval.text(3) for interval in found if interval is not None]
            rows.append((name, shown, seeds, *cells, f"{active:.2f}"))
            name = ""
    return Table(
        "After the last epoch",
        ("logits", "derivative", "epochs / seeds", *METRICS, "active bounds, test"),
        tuple(rows),
        "Means over seeds, ± 95 %. Ranked by the logits, whose order is that of x; train labels as "
        "given, with their noise.",
    )


def _apart(gaps: dict[tuple[str, str], Gap | None]) -> Table:
    rows = tuple(
        (
            NAMES[logits], METHODS[method], f"{found.loss:.0e}", f"{found.count}",
            f"{100 * found.train:.2f}", f"{100 * found.test:.2f}", f"{found.epochs}",
        )
        for (logits, method), found in gaps.items()
        if found is not None
    )  # fmt: skip
    return Table(
        "How far the curves are from those of the closed form",
        ("logits", "derivative", "loss of a gradient step", "steps", "train top-1, points",
         "test top-1, points", "epochs"),
        rows,
        "The largest difference over seeds and times, same weights and batches.",
    )  # fmt: skip
