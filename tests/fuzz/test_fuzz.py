"""A short run of the fuzzer, the same at each call. ``python -m tests.fuzz`` runs a long one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.calls import HEALTH, TARGETS, Call, calls
from tests.fuzz.check import BrokenError, check
from tests.fuzz.known import is_known
from tests.fuzz.values import Array

SLOW = {"nn.NLP", "cvxpy.CvxpyLayer", "operators.total_variation_2d", "solvers.descent"}


@pytest.mark.parametrize("name", TARGETS)
def test_every_invariant_holds(name: str) -> None:
    settings(
        max_examples=3 if name in SLOW else 8, derandomize=True, database=None, deadline=None,
        suppress_health_check=HEALTH,
    )(given(data=st.data())(lambda data: one(name, data)))()  # fmt: skip


def one(name: str, data: st.DataObject) -> None:
    call = data.draw(calls(name))
    try:
        check(call)
    except BrokenError as error:
        if not is_known(name, str(error)):
            raise


PLANTED = {
    "the derivative is 1": "lambda y: 2 * y.detach() + y",
    "changed in place": "lambda y: y.data.mul_(2)",
    "IndexError at": "lambda y: [][0]",
    "ValueError names nothing: 'oops'": "lambda y: (_ for _ in ()).throw(ValueError('oops'))",
    "not finite, and no status says so": "lambda y: y / 0",
    r"shape \(\) in place of \(1,\)": "lambda y: y.sum()",
    "torch.float32 in place of float64": "lambda y: y.float()",
}


@pytest.mark.parametrize("words", PLANTED)
def test_what_is_planted_is_found(words: str) -> None:
    call = Call("planted", PLANTED[words], (Array((1.5,), (1,)),), shape=(1,))
    with pytest.raises(BrokenError, match=words):
        check(call)


def test_a_kink_is_not_a_wrong_gradient() -> None:
    assert check(Call("kink", "torch.relu", (Array((0.0,), (1,)),), shape=(1,))) == "returned"


def test_a_call_prints_as_the_program_that_repeats_it() -> None:
    array = Array((1.0, float("nan")), (2, 1), "float32", strided=True)
    made = eval(repr(array), {"torch": torch})
    assert made.dtype == torch.float32
    assert torch.equal(made.isnan(), torch.tensor([[False], [True]]))
