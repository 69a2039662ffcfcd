"""The words of the report: the claim, what was run, what was chosen and what was found."""

from __future__ import annotations

from typing import Any

from foldopt.experiments.multilabel.curves import Gap, curves
from foldopt.experiments.multilabel.figures import NAMES
from foldopt.experiments.multilabel.networks import DEFAULT
from foldopt.experiments.multilabel.plan import (
    GRADIENTS,
    LOGITS,
    METHODS,
    Config,
    adjoint_key,
    training_key,
)

__all__ = ["CLAIM", "choices", "counted", "findings", "ran"]

CLAIM = (
    "arXiv 2301.12047, Fig. 7: a DenseNet-40-40 trained on CIFAR-100 with noisy labels through a "
    "smooth top-5 layer (eq. 19) has training curves that cannot be told apart, whether the layer "
    "is differentiated by f-PGDa, f-SQP or cvxpylayers; test accuracies differ slightly in the "
    "first epochs."
)
SOURCES = {
    "digits": "pairs of scikit-learn's 8 × 8 digits, split image by image, 70 % to train on",
    "fashion-mnist": "pairs of Fashion-MNIST images, train and test from its own two files",
    "cifar100": "CIFAR-100, train and test from its own two files",
}
NETWORKS = {
    "mlp": "one hidden layer of 256",
    "cnn": "two convolutions and a hidden layer of 128",
    "densenet": "DenseNet-40-40",
}


def ran(config: Config, results: dict[str, Any]) -> str:
    """What was run."""
    network = DEFAULT[config.data] if config.network == "auto" else config.network
    slow = (
        f"cvxpylayers on {len(config.trained_seeds('cvxpylayers'))} of the seeds, for the first "
        f"{counted(config.trained_epochs('cvxpylayers'), 'epoch')} of the same training"
    )
    lacking = results[GRADIENTS]["missing"]
    sgd = (
        f"SGD with learning rate {config.learning_rate:g}, momentum {config.momentum:g} and weight "
        f"decay {config.weight_decay:g}, batches of {config.batch_size}, "
        f"{counted(config.epochs, 'epoch')}, {counted(config.seeds, 'seed')} from {config.seed} on"
    )
    return (
        f"{config.train:,} training and {config.test:,} test examples: {SOURCES[config.data]}; 100 "
        "classes in 20 coarse groups of 5; training labels redrawn within their true group with "
        f"probability {config.noise:g}. The network: {NETWORKS[network]}. {sgd}; "
        + (slow if lacking is None else f"cvxpylayers left out: {lacking}")
        + f". k = {config.k}, loss −log x_y, and for each of the three kinds of logits four "
        "trainings from the same weights with the same batches: with the closed form's derivative, "
        "f-PGDa, f-SQP and cvxpylayers."
    )


def choices(config: Config) -> tuple[str, ...]:
    """What the paper leaves open or gets wrong, and what was chosen."""
    images = (
        "CIFAR-100 must be brought along (--data cifar100 --data-dir …). Elsewhere two images side "
        "by side make an example: class 10 a + π(b), where π sends half of the labels to 0…4 and "
        "the others to 5…9, so that there are 100 classes and 20 true groups of 5 as in CIFAR-100. "
        "Real pixels, made-up labels: no figure here can be compared with one for CIFAR."
    )
    if config.data == "cifar100":
        images = "The paper's images; without flips and crops, which it does not mention."
    return (
        "Eq. 19 prints + before the entropy of a maximum, whose solution would be a vertex; the "
        "layer has −, as the paper's repository does.",
        "The paper's repository scales logits to length 1, with τ = 1. No bound can then become "
        "active, and the methods are compared on a softmax. That run is here, and two more in "
        "which x_i = 1 does become active: logits of length 1 with τ = 0.1, and logits as they "
        "are.",
        images,
        "The probability of noise is not in the paper; its repository has 1 as default and 0.4 in "
        f"a script. Here {config.noise:g}. The repository draws within blocks of 5 of the "
        "alphabetical class numbers; here a label is drawn within its true coarse group.",
        "The repository takes its validation images from those that it trains on. Here no image is "
        "in two parts, and no epoch is chosen, so that no validation part is needed.",
        "Momentum 0.9 (Nesterov) and weight decay 1e-4 are those of the experiment that the paper "
        "builds on; the paper says SGD 0.1, batches of 64 and 30 epochs. The default sizes and "
        "epochs are smaller than the paper's, for minutes on two cores; flags change that.",
        "The loss is −log x_y without the repository's 1e-8, which would cut the gradient where "
        "x_y is small.",
        "One forward pass for all: bisection on the multiplier, in float64. The paper took "
        "CVXPY's. cvxpylayers differentiates at its own solution and cannot be given another: it "
        "solves too, and then x is set to the common value while the derivative stays its own.",
        "f-PGDa's projection is the library's on the capped simplex, whose derivative is that of "
        "the active set; f-SQP's quadratic program has a diagonal Hessian and is solved in closed "
        "form. The tests hold both against the general f_pgd_a and f_sqp. α = 0.025 and 1, the "
        "repository's.",
        "The curve of the closed form's own derivative stands for the truth. A control, that "
        "derivative with every entry off by 1e-5, shows how sensitive training itself is.",
        "Top-1 and top-5 are ranked by logits, since x ties at 1.",
    )


def findings(
    config: Config, results: dict[str, Any], gaps: dict[tuple[str, str], Gap | None]
) -> tuple[str, ...]:
    """What else was seen."""
    found = results[GRADIENTS]
    usual = found["normalised"]["cross-entropy"]
    largest = max(
        float(curves(config, results, "normalised", method, "largest").max())
        for method in ("exact", "pgd", "sqp")
    )
    lines = [
        "At the paper's logits the loss is cross-entropy − log k, up to "
        f"{usual['loss']:.0e} in value and {usual['gradient']:.0e} in the gradient; the largest "
        f"x_i of a test sample over all trainings is {largest:.3f}, far from the bound 1. So "
        "Fig. 7 does not test how a method treats constraints.",
    ]
    for logits in LOGITS:
        rows = found[logits]["methods"]
        folds = max(rows[name]["random"][1] for name in ("f-PGDa", "f-SQP"))
        line = (
            f"{NAMES[logits]}, {found[logits]['active']:.2f} active bounds a sample: the gradients "
            f"of both folds are the closed form's to {folds:.0e}"
        )
        if "cvxpylayers" in rows:
            row = rows["cvxpylayers"]
            line += (
                f"; cvxpylayers' differ by {_number(row['loss'][0])} (median) to "
                f"{_number(row['loss'][1])} for −log x_y, its solutions by "
                f"{_number(row['distance'])} in an entry"
            )
        lines.append(line + ".")
    for logits in LOGITS:
        of = results[adjoint_key(logits)]
        row = of["pgd"]["solvers"]["LFPI"]
        ends = (
            f"fails on {row['failed']} of {of['pgd']['samples']} samples"
            if row["failed"]
            else f"converges in {row['products']} products"
        )
        lines.append(
            f"{NAMES[logits]}: f-PGDa of the trained layer has ρ(Φ) = {of['pgd']['worst']:.3g} at "
            f"worst (least x_i {of['least']:.0e}, α = 0.025), and LFPI, the paper's adjoint, "
            f"{ends}; f-SQP has {of['sqp']['worst']:.0e}. A direct solve is not touched by it."
        )
    failed = {
        logits: sum(
            results.get(training_key(logits, "cvxpylayers", seed), {}).get("failed", 0)
            for seed in config.trained_seeds("cvxpylayers")
        )
        for logits in LOGITS
    }
    lines += [
        f"{NAMES[logits]}: cvxpylayers' solver gave up on {count} batches, which gave no gradient."
        for logits, count in failed.items()
        if count
    ]
    ended = {
        (logits, seed): results.get(training_key(logits, "cvxpylayers", seed), {}).get("diverged")
        for logits in LOGITS
        for seed in config.trained_seeds("cvxpylayers")
    }
    lines += [
        f"{NAMES[logits]}, seed {seed}: with cvxpylayers' gradients the loss ceased to be finite "
        f"in epoch {epoch}; from the same start the folds train to the end."
        for (logits, seed), epoch in ended.items()
        if epoch is not None
    ]
    apart = {
        METHODS[method]: 100 * between.test
        for method in ("pgd", "sqp", "cvxpylayers")
        if (between := gaps["normalised", method]) is not None
    }
    line = (
        "Test top-1 at the paper's logits, largest distance from the closed form in points: "
        + ", ".join(f"{name} {points:.2f}" for name, points in apart.items())
    )
    if max(apart.values()) < 0.5:
        line += (
            "; with the same weights and batches there is next to no difference even in the first "
            "epochs, so that the slight one in the paper must have come from elsewhere"
        )
    lines.append(f"{line}.")
    return tuple(lines)


def counted(number: int, what: str) -> str:
    """A number with its noun.

    Examples
    --------
    >>> counted(1, "epoch"), counted(3, "epoch")
    ('1 epoch', '3 epochs')
    """
    return f"{number} {what}" + ("" if number == 1 else "s")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"
