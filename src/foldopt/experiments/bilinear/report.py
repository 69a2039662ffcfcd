"""What a run of the bilinear study says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from foldopt.experiments.bilinear.figure import draw_pairs, draw_saved
from foldopt.experiments.bilinear.gradients import ERROR
from foldopt.experiments.bilinear.outcome import Outcome
from foldopt.experiments.bilinear.plan import (
    ADJOINTS,
    CHECKS,
    GRADIENTS,
    LONGER,
    MORE_ERROR,
    NEARLY_CONCAVE,
    TWO_STAGE,
    Config,
    folded_name,
    models,
    more_regret,
)
from foldopt.experiments.bilinear.tables import (
    agreement_table,
    comparison_table,
    problems_table,
    references,
    shares_table,
    signals_table,
    trainings_table,
)
from foldopt.experiments.frame import Figure, Report, Table, adjoint_table, certificate_table
from foldopt.experiments.frame.report import Verdict
from foldopt.experiments.statistics import Interval

__all__ = ["choices", "findings", "judge", "write_report"]

CLAIM = (
    "arXiv 2301.12047, Section 6 and Fig. 4a: trained end to end through f-PGDb, a network has a "
    "much lower test regret than a two-stage one on each of 15 matrices Q of a nonconvex bilinear "
    "program."
)
# A solver proves its objective to 1e-5, relative; z is then known to about the square root of that.
_SAME_VALUE = 1e-4


def write_report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """Draw the figures, and say what came out.

    Parameters
    ----------
    config
        The settings.
    results
        Of every job, by key.
    folder
        Where the figures go.

    Returns
    -------
    Report
        Claim, verdict, findings, tables and figures.
    """
    outcome = Outcome(config, results)
    verdict, why = judge(outcome)
    return Report(
        claim=CLAIM,
        ran=_ran(outcome),
        choices=choices(config),
        verdict=verdict,
        why=why,
        findings=tuple(findings(outcome, results)),
        tables=_tables(outcome, results),
        figures=_figures(outcome, folder),
    )


def _ran(outcome: Outcome) -> str:
    config = outcome.config
    tenth = config.samples // 10
    solver = {"ascent": "a local search from all vertices", "scip": "SCIP", "gurobi": "Gurobi"}
    return (
        f"max cᵀx + xᵀQy + dᵀy over 0 ≤ x, y ≤ 1, Σx = 1, Σy = 2, with n = {config.n} + {config.n}"
        f"; {len(outcome.seeds)} Q from seed {config.seed} on, {config.seeds} trainings of each "
        f"model on each. Synthetic data, by the paper's recipe: {config.samples - 2 * tenth} "
        f"examples to train on, {tenth} to choose the epoch by, {tenth} for the test. Networks of "
        f"5 layers, Adam at {config.learning_rate:g}, batches of {config.batch_size}, "
        f"{config.epochs} epochs. Layers add −(ε/2)(‖x‖² + ‖y‖²), are folded by f-PGDb and solved "
        f"in training by {solver[config.solver]}. Regret is scored on the bilinear program itself, "
        "at the exact optimum for the predicted costs."
    )


def choices(config: Config) -> tuple[str, ...]:
    """What the paper leaves open or gets wrong, what was chosen, and why."""
    return (
        "The program is solved at vertices, so that its decision does not move with the costs and "
        "its derivative is zero wherever it exists: as stated, the model cannot learn. The paper "
        "names no remedy. The layer here adds −(ε/2)(‖x‖² + ‖y‖²); ε = 0 is run too.",
        "n and the distribution of Q are not stated: n = 10 and Q ~ N(0, 1), entry by entry.",
        "h(t) is not a number on [−2, 0], half of its inputs: it is taken at |t| + 0.05. Costs are "
        "standardised, which puts them in the units of Q.",
        "Widths of the network are not stated: 64. A tenth of the examples chooses the epoch, for "
        "every model alike; the paper mentions no such part.",
        "The loss is the regret of the program that the layer solves, ε and all, which is least at "
        "the true costs; the regret of the bilinear program is an ablation. It can be lowered by "
        "larger and larger costs.",
        "Enumeration solves ε = 0 exactly, as Σx = 1: for each x the best y are the two largest of "
        "a row. ε > 0 is solved by a local search from all vertices, compared below with SCIP (and "
        "with Gurobi, where it is installed); --solver puts either into the training.",
        "f-PGDb has no derivative at some vertices, where constraints are dependent: such samples "
        "get a zero gradient and are counted.",
        "Intervals by Q are over repetitions (initial weights and batches) on the same data; those "
        "over all are over Q, each with data of its own.",
        f"Beyond the paper: {config.longer} epochs of the squared error at "
        f"{config.longer_learning_rate:g}, and from there {config.more} more at "
        f"{config.more_learning_rate:g}, on the error or on regret. These settings, and the ε "
        "other than 0.5 and 1, were chosen on other Q than those reported (seeds 100 to 103 "
        "and 200 to 205).",
    )


def judge(outcome: Outcome) -> tuple[Verdict, str]:
    """Whether the paper's claim holds, and the figures that say so.

    It is judged by the plain pair alone, two-stage and the first ε: what helps is a finding.
    """
    name = folded_name(outcome.config.epsilons[0])
    count = len(outcome.seeds)
    lower, wins, losses = outcome.counts(TWO_STAGE, name)
    saved = outcome.saved_overall(TWO_STAGE, name)
    text = (
        f"Mean test regret is {outcome.overall(TWO_STAGE).text(3)} for two-stage and "
        f"{outcome.overall(name).text(3)} for {name}. The folded model's is the lower one on "
        f"{lower} of {count} Q; beyond the interval over {outcome.config.seeds} repetitions it is "
        f"lower on {wins} and higher on {losses}."
    )
    if math.isnan(saved.half):
        return "cannot be tested", f"{text} One Q shows nothing in general."
    text = f"{text} {_who(saved)}"
    if lower == count:
        return "reproduced", text
    if saved.mean > 0 and saved.excludes_zero:
        return "partly reproduced", f"{text} Folded is better overall, but not on every Q."
    best = max(outcome.config.epsilons, key=lambda e: outcome.counts(TWO_STAGE, folded_name(e))[0])
    most = outcome.counts(TWO_STAGE, folded_name(best))[0]
    return "not reproduced", f"{text} No ε is lower on more than {most} of {count} Q."


def _who(saved: Interval) -> str:
    size = Interval(abs(saved.mean), saved.half).text(3)
    if not saved.excludes_zero:
        return f"Over all Q the difference, {saved.text(3)}, is within its interval."
    return f"Over all Q the folded model is {'lower' if saved.mean > 0 else 'higher'} by {size}."


def findings(outcome: Outcome, results: dict[str, Any]) -> list[str]:
    """What else was seen, a sentence or two each."""
    config = outcome.config
    lines = _tuned(outcome)
    known = {model.name for model in models(config)}
    zero, large = folded_name(0.0), folded_name(NEARLY_CONCAVE)
    epsilons = sorted({*config.epsilons} | ({NEARLY_CONCAVE} if large in known else set()))
    lines.append(
        "Regret saved over two-stage, by ε: "
        + "; ".join(
            f"{e:g}: {outcome.saved_overall(TWO_STAGE, folded_name(e)).text(3)}" for e in epsilons
        )
        + ". The more the program is smoothed, the closer its regret is to an error of the costs."
    )
    if zero in known:
        moved = outcome.measure(zero, "moved").max()
        same = abs(outcome.regret(zero) - outcome.untrained("initial weights")[:, :1]).max()
        verb = "learns nothing" if same == 0 else "CHANGES"
        lines.append(
            f"With ε = 0 the network {verb}: no weight moves by more than {moved:.0e} in "
            f"{config.epochs} epochs, and the test regret is "
            f"{'that' if same == 0 else 'not that'} of the untrained network, "
            f"{outcome.overall(zero).text(3)}."
        )
    smooth, rough = (folded_name(config.epsilons[0], smooth) for smooth in (True, False))
    if rough in known:
        far, near = (outcome.measure(name, "error").mean() for name in (rough, smooth))
        lines.append(
            f"Trained on the regret of the bilinear program instead ({rough}), a loss that larger "
            f"costs can lower, the squared error of the costs on the test is {far:.1f} (against "
            f"{near:.1f} by the smoothed regret), and the test regret "
            f"{outcome.overall(rough).text(3)}."
        )
    return [*lines, *_checked(results[CHECKS]), _informed(results[GRADIENTS], config)]


def _tuned(outcome: Outcome) -> list[str]:
    """What regret adds to weights that have learned all they can from the error."""
    config = outcome.config
    lines = [
        f"A two-stage training of {config.longer} epochs at {config.longer_learning_rate:g} brings "
        f"the regret down to {outcome.overall(LONGER).text(3)}; {config.more} more epochs at "
        f"{config.more_learning_rate:g} on the error leave it at "
        f"{outcome.overall(MORE_ERROR).text(3)}."
    ]
    for name in map(more_regret, config.more_epsilons):
        lower, wins, losses = outcome.counts(MORE_ERROR, name)
        saved = outcome.saved_overall(MORE_ERROR, name)
        text = (
            f"As many epochs on regret instead ({name}) give {outcome.overall(name).text(3)}: "
            f"lower on {lower} of {len(outcome.seeds)} Q, clearly on {wins}, clearly higher on "
            f"{losses}."
        )
        lines.append(text if math.isnan(saved.half) else f"{text} {_who(saved)}")
    return lines


def _checked(checks: dict[str, Any]) -> list[str]:
    epoch, found = checks["epoch"], checks["agreements"]
    worse = sum(one["worse"] for one in found)
    values = [one["value"] for one in found if one["value"] is not None]
    proved = sum(one["proved"] for one in found)
    same = worse == 0 and all(math.isnan(v) or v < _SAME_VALUE for v in values)
    return [
        f"Branch and bound proved {proved} optima; "
        + (
            "ours are the same."
            if same
            else f"OURS DIFFER: worse on {worse} programs, objectives by up to {max(values):.0e}."
        ),
        f"Without ε, {100 * checks['unsmoothed']:.0f} % of the training samples have a nonzero "
        "gradient at the untrained network's predictions, and "
        f"{100 * checks['shares']['0']:.0f} % of the test samples at the true costs.",
        f"One epoch on {epoch['examples']} examples with SCIP in the layer, and with the local "
        f"search: the weights after it differ by {epoch['gap']:.0e} at most, and have moved by up "
        f"to {epoch['change']:.0e}.",
    ]


def _informed(signals: dict[str, Any], config: Config) -> str:
    name = folded_name(config.epsilons[0])
    first, later = signals["initial weights"], signals[LONGER]

    def told(by_loss: dict[str, Any], loss: str) -> str:
        found = by_loss[loss]
        power = found["signal_to_noise"]
        if not found["samples"]:
            return "reaches no sample at all"
        return (
            f"reaches {100 * found['entries']:.0f} % of the costs, points towards the true ones "
            f"with a cosine of {found['towards_truth']:.2f}, and has "
            + (f"{power:.2f} times" if power > 0 else "nothing above")
            + " the power of its noise"
        )

    return (
        f"What the gradient tells: at random weights that of {name} {told(first, name)}; that of "
        f"the {ERROR} {told(first, ERROR)}. After the longer two-stage training the first "
        f"{told(later, name)}; the second {told(later, ERROR)}."
    )


def _tables(outcome: Outcome, results: dict[str, Any]) -> tuple[Table, ...]:
    names = [name for _, name in references(outcome)]
    return (
        problems_table(outcome),
        comparison_table(outcome),
        trainings_table(outcome),
        signals_table(results[GRADIENTS]),
        agreement_table(results[CHECKS]["agreements"]),
        shares_table(results[CHECKS]["shares"]),
        adjoint_table(results[ADJOINTS]),
        certificate_table({name: outcome.certificates(name) for name in names}),
    )


def _figures(outcome: Outcome, folder: Path) -> tuple[Figure, ...]:
    main = outcome.config.epsilons[0]
    plain, tuned = (
        (TWO_STAGE, folded_name(main)),
        (MORE_ERROR, more_regret(outcome.config.more_epsilons[0])),
    )
    draw_pairs(outcome, plain, "The paper's setting, from random weights", folder / "regret.png")
    draw_pairs(outcome, tuned, f"From the same weights: {LONGER}", folder / "tuned.png")
    draw_saved(outcome, references(outcome), folder / "saved.png")
    over = f"± 95 % over {outcome.config.seeds} repetitions"
    return (
        Figure("regret.png", f"Mean test regret for each Q, {over}: the paper's Fig. 4a."),
        Figure("tuned.png", f"The same after a longer two-stage training, {over}."),
        Figure("saved.png", "Regret saved by each folded model over its reference, paired."),
    )
