"""How time and memory grow: with the unknowns, the batch, the processes, and the workers of dask.

    python benchmarks/scale.py adjoint|batch|parallel|dask [--quick] [--gpu] [--again]
    python benchmarks/scale.py fit        the cost model, from what has been measured
    python benchmarks/scale.py predict --case qp --n 20 --batch 100000 --workers 8
    python benchmarks/scale.py page       the tables of docs/scale.md
    python benchmarks/scale.py all        all of these but predict

Every row is measured in a process of its own on one thread, and saved in runs/scale/rows.json at
once: run the command again to go on, with --again to begin anew. --quick leaves the large sizes
out. With --gpu the cases that run on a GPU are measured there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib

import torch
from _scale_jobs import CASES, GROUPS, Job, measure
from _scale_layers import pin
from _scale_model import Size, predict
from _scale_page import told, write
from _scale_store import FOLDER, figures_of, fits_of, load, measure_all, saved_figures

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "scale.md"


def jobs_of(group: str, quick: bool, gpu: bool) -> list[Job]:
    """What a command measures."""
    jobs: list[Job] = []
    for case in CASES.values():
        if case.group == group:
            own = list(case.quick if quick else case.jobs)
            jobs += own
            if gpu and "cuda" in case.devices:
                jobs += [dataclasses.replace(job, device="cuda") for job in own]
    return jobs


def fitted(folder: pathlib.Path) -> None:
    """Fit the model, and save its figures."""
    rows = load(folder)
    figures = figures_of(rows)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for name, one in figures.items():
        print(f"{name}: {told(one)}")


def predicted(options: argparse.Namespace) -> str:
    """What the model says of a job."""
    figures = saved_figures(options.folder)
    if options.case not in figures:
        raise SystemExit(
            f"--case {options.case}: no figures; there are those of {', '.join(figures)}"
        )
    one, case = figures[options.case], CASES[options.case]
    remote = options.workers > 1 or options.case == "dask"
    moved = case.moved(options.n, options.batch)
    size = Size(options.n, options.batch, options.workers, options.iterations, remote, moved)
    parts = predict(fits_of(one), size)
    if remote and "message" not in {term for terms in case.terms.values() for term in terms}:
        # Its samples are shared out, and the gradients of the weights are summed, as in training.
        if "transfer" not in figures:
            raise SystemExit("--workers: no figures of transfers: run `scale.py parallel`, `fit`")
        weights = dataclasses.replace(size, moved=8.0 * options.weights)
        parts["sum"] = predict(fits_of(figures["transfer"]), weights)["sum"]
    total = sum(parts.values())
    lines = [f"{part:10s}{seconds:12.4g} s" for part, seconds in parts.items()]
    lines.append(f"{'in all':10s}{total:12.4g} s, {options.batch / total:.4g} samples a second")
    if one["bytes_each"]:
        memory = one["bytes_each"] * size.each * size.n
        lines.append(f"{'memory':10s}{memory / 1e9:12.4g} GB of each worker")
    asked = (options.n, options.batch, options.workers)
    if any(wanted > most for wanted, most in zip(asked, one["largest"], strict=True)):
        known = "n {}, batch {}, workers {}".format(*one["largest"])
        lines.append(f"Beyond what was measured: {known}.")
    lines.append(f"Of the model: {told(one)}.")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    root.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    commands = root.add_subparsers(dest="command", required=True)
    for name in (*GROUPS, "all"):
        one = commands.add_parser(name)
        one.add_argument("--quick", action="store_true", help="leave the large sizes out")
        one.add_argument("--gpu", action="store_true", help="also on a GPU, where a case can")
        one.add_argument("--again", action="store_true", help="measure what is there already")
    commands.add_parser("fit")
    commands.add_parser("page")
    commands.add_parser("run").add_argument("job", type=json.loads)
    one = commands.add_parser("predict")
    one.add_argument("--case", default="qp", choices=[n for n, c in CASES.items() if c.terms])
    one.add_argument("--n", type=lambda text: int(float(text)), required=True)
    one.add_argument("--batch", type=lambda text: int(float(text)), default=1)
    one.add_argument("--workers", type=int, default=1)
    one.add_argument("--iterations", type=float, default=1.0, help="if not the usual ones")
    one.add_argument("--weights", type=int, default=0, help="how many the workers average")
    return root


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    command = options.command
    if command == "run":
        job = Job(**options.job)
        if CASES[job.case].group == "batch":
            pin(0)
        print(json.dumps(measure(job)))
        return
    if getattr(options, "gpu", False) and not torch.cuda.is_available():
        raise SystemExit("--gpu: no GPU is at hand (torch.cuda.is_available() is False)")
    for group in GROUPS if command == "all" else (command,):
        if group in GROUPS:
            measure_all(jobs_of(group, options.quick, options.gpu), options.folder, options.again)
    if command in ("fit", "all"):
        fitted(options.folder)
    if command in ("page", "all"):
        write(PAGE, load(options.folder), saved_figures(options.folder))
    if command == "predict":
        print(predicted(options))


if __name__ == "__main__":
    main()
