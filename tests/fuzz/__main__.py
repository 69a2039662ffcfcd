"""``python -m tests.fuzz --minutes 10 [--seed N] [--only nn.QP]``: draw calls until time is up.

Every finding is shrunk and printed once, as the program that repeats it; the exit status is 1 if
there is any. The seed is printed at once: with it, and as many minutes, the run can be repeated.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import os
import pathlib
import random
import re
import sys
import tempfile
import time
import traceback
import warnings

import torch
from hypothesis import given, seed, settings
from hypothesis.errors import Flaky

from tests.fuzz.calls import HEALTH, TARGETS, Call, calls
from tests.fuzz.check import BrokenError, check
from tests.fuzz.known import is_known

EXAMPLES = 40
HEADER = "import numpy as np, torch, foldopt as fo\nimport tests.fuzz.functions as f\n"

# The call that is being made: for when it never ends, or takes the process with it.
LAST = pathlib.Path(tempfile.gettempdir()) / f"foldopt-fuzz-{os.getpid()}.py"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", action="append", choices=sorted(TARGETS))
    given_ = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    end = time.monotonic() + 60 * given_.minutes
    names = given_.only or list(TARGETS)
    found: dict[tuple[str, str], str] = {}
    outcomes: collections.Counter[str] = collections.Counter()
    say(f"seed {given_.seed}, {len(names)} targets, {given_.minutes:g} minutes; "
        f"if it hangs, the call is in {LAST}")  # fmt: skip
    turn = 0
    while time.monotonic() < end:
        for name in names:
            if time.monotonic() > end:
                break
            broken = one(name, given_.seed + turn, outcomes, set(found))
            if broken is not None and (name, summary(broken)) not in found:
                found[name, summary(broken)] = broken
                say(f"\n== {name}, seed {given_.seed + turn}\n{HEADER}# {broken}")
        turn += 1
    say("\n" + "\n".join(f"{count:7d} {outcome}" for outcome, count in outcomes.most_common()))
    say(f"{len(found)} findings. To repeat: python -m tests.fuzz --seed {given_.seed} "
        f"--minutes {given_.minutes:g}")  # fmt: skip
    return 1 if found else 0


def one(
    name: str, number: int, outcomes: collections.Counter[str], known: set[tuple[str, str]]
) -> str | None:
    """Some calls of one target; what broke, if anything new did."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, print_blob=False,
        suppress_health_check=HEALTH, report_multiple_bugs=False,
    )  # fmt: skip
    @given(calls(name))
    def draw(call: Call) -> None:
        faulthandler.dump_traceback_later(120, exit=True)
        LAST.write_text(f"{HEADER}{call!r}\n", encoding="utf-8")
        try:
            outcomes[f"{name}: {check(call)}"] += 1
        except BrokenError as error:
            if is_known(name, str(error)):
                outcomes[f"{name}: a known finding"] += 1
            elif (name, summary(str(error))) not in known:
                raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    try:
        draw()
    except BrokenError as error:
        return str(error)
    except Flaky as error:
        return f"flaky, so perhaps a matter of time or of state: {error}"
    except Exception as error:  # several at once, or the fuzzer's own
        return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return None


def summary(broken: str) -> str:
    """What counts as the same finding: the kind and the place, or the words without numbers."""
    place = re.match(r"\w+ at [^:]+:\d+", broken)
    return place[0] if place else re.sub(r"[-\d.e+]+", "#", broken.splitlines()[0])[:60]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
