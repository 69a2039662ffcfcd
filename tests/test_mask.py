"""on_failure="mask" and "warn", and the record of what happened."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldWarning, Status
from tests.problems import F64, newton_root

C = torch.tensor([[4.0, 9.0], [16.0, 25.0], [1.0, 2.0]], dtype=F64)


def leaf() -> Tensor:
    return C.clone().requires_grad_()


@pytest.mark.parametrize("adjoint", [fo.Dense(), fo.GMRES(), fo.LFPI()], ids=str)
@pytest.mark.parametrize("trouble", ["mismatch", "nan", "status", "nan params"])
def test_mask_leaves_the_other_samples_exact(trouble: str, adjoint: Any) -> None:
    data, w = C.clone(), torch.ones(2, dtype=F64, requires_grad=True)
    status = torch.zeros(3, dtype=torch.int64)
    x_star = data.sqrt()
    if trouble == "mismatch":
        x_star[1] += 1
    elif trouble == "status":
        status[1] = Status.INFEASIBLE
    elif trouble == "nan":
        x_star[1] = torch.nan
    else:
        data[1] = x_star[1] = torch.nan
    c = data.clone().requires_grad_()
    folded = fo.folded(lambda x, c, w: newton_root(x, c * w), on_failure="mask", adjoint=adjoint)(
        lambda c, w: fo.Solution(x_star, status)
    )
    with fo.record() as seen:
        x = folded(c, w)
        x[[0, 2]].sum().backward() if "nan" in trouble else x.sum().backward()
    good = torch.tensor([0, 2])
    assert c.grad is not None
    assert w.grad is not None
    torch.testing.assert_close(c.grad[good], 0.5 / C[good].sqrt())
    assert c.grad[1].tolist() == [0.0, 0.0]
    # the shared parameter's sum runs over the good samples: Σ √c / 2
    torch.testing.assert_close(w.grad, 0.5 * C[good].sqrt().sum(0))
    failed = Status.failed(seen[0].status)
    assert failed.tolist() == [False, True, False]
    assert Status.failed(seen[1].status).tolist() == [False, True, False]


def test_mask_in_higher_order_and_under_transforms() -> None:
    x_star = C.sqrt()
    x_star[1] = torch.nan
    folded = fo.folded(newton_root, on_failure="mask")(lambda c: x_star)

    def loss(c: Tensor) -> Tensor:
        return folded(c)[[0, 2]].sum()

    def wanted(c: Tensor) -> Tensor:
        return c.sqrt()[[0, 2]].sum()

    c = leaf()
    (g,) = torch.autograd.grad(loss(c), c, create_graph=True)
    (h,) = torch.autograd.grad(g[[0, 2]].sum(), c)
    torch.testing.assert_close(g, torch.autograd.grad(wanted(c), c)[0])
    torch.testing.assert_close(h[[0, 2]], (-0.25 * C**-1.5)[[0, 2]])
    torch.testing.assert_close(torch.func.grad(loss)(C), g.detach())
    torch.testing.assert_close(torch.func.jvp(loss, (C,), (C,))[1], (g.detach() * C).sum())


def test_mask_of_a_failed_linear_solve() -> None:
    rate = torch.tensor([[0.5], [1.0], [0.25]], dtype=F64)  # the second sample is singular
    c = torch.zeros(3, 1, dtype=F64, requires_grad=True)
    with fo.record() as seen:
        x = fo.fold(lambda x, c: rate * x + c, torch.zeros(3, 1, dtype=F64), c, on_failure="mask")
        x.sum().backward()
    assert c.grad is not None
    torch.testing.assert_close(c.grad[:, 0], torch.tensor([2.0, 0.0, 4 / 3], dtype=F64))
    assert seen[1].status.tolist() == [0, Status.BREAKDOWN, 0]


def test_a_masked_sample_is_not_warned_of_as_well() -> None:
    phi = torch.tensor([[0.1], [0.95]], dtype=F64)  # the second is near, and not yet there
    c, start = torch.ones(2, 1, dtype=F64), torch.tensor([[0.0], [19.9]], dtype=F64)
    x = fo.fixed_point(
        lambda x, c: phi * x + c,
        start,
        c,
        method="plain",
        max_iterations=30,
        on_failure="mask",
    )
    torch.testing.assert_close(x[0], 1 / (1 - phi[0]))


def test_mask_when_every_sample_has_failed() -> None:
    c = leaf()
    x = fo.fold(newton_root, torch.full_like(C, torch.nan), c, on_failure="mask")
    x.nansum().backward()
    assert c.grad is not None
    assert c.grad.abs().sum() == 0


def test_warn_goes_on() -> None:
    c = leaf()
    with pytest.warns(FoldWarning, match="NOT_FIXED"):
        x = fo.fold(newton_root, C.sqrt() + 1, c, on_failure="warn")
    x.sum().backward()
    assert c.grad is not None


# -- the record ---------------------------------------------------------------------------------


def test_record() -> None:
    c = leaf()
    before = fo.fold(newton_root, C.sqrt(), c)
    with fo.record() as seen:
        x = fo.fold(newton_root, C.sqrt(), c, adjoint=fo.GMRES())
        before.sum().backward()  # began outside: not ours
    assert [event.kind for event in seen] == ["forward"]
    x.sum().backward()  # began inside, though it ends outside
    assert [event.kind for event in seen] == ["forward", "adjoint"]
    assert len(seen) == 2
    event = seen[1]
    assert event.method == "GMRES"
    assert event.status.tolist() == [0, 0, 0]
    assert event.iterations.tolist() == [1, 1, 1]
    assert float(event.residual.max()) < 1e-11
    assert event.seconds > 0
    assert "GMRES: 3 samples, 0 failed, at most 1 iterations" in str(seen)
    with fo.record() as tangents:
        torch.func.jvp(lambda c: fo.fold(newton_root, C.sqrt(), c), (C,), (C,))
    assert [event.kind for event in tangents] == ["forward", "tangent"]


def test_record_of_a_backward_pass_on_another_thread() -> None:
    with fo.record() as seen:
        x = fo.fold(newton_root, C.sqrt(), leaf())
    thread = threading.Thread(target=lambda: x.sum().backward())
    thread.start()
    thread.join()
    assert [event.kind for event in seen] == ["forward", "adjoint"]


@pytest.mark.parametrize("where", ["adjoint", "forward"])
@pytest.mark.parametrize("adjoint", [fo.Dense(), fo.GMRES(), fo.Auto(), fo.LFPI()])
def test_what_fails_inside_a_step_fails_the_sample_outside(where: str, adjoint: Any) -> None:
    # x = y + c with y = x/2, and so x = 2c; y is itself a fold. A zero for its lost derivative
    # would make dx/dc = 1, which nobody could tell from a true one.
    def step(x: Tensor, c: Tensor, a: Tensor) -> Tensor:
        y = fo.folded(lambda y, x, a: a * y + (1 - a) * x / 2, on_failure="mask")(
            lambda x, a: fo.Solution(x / 2, (a[:, 0] > 0.5) & (where == "forward"))
        )(x, a)
        return y + c

    c = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([[0.3], [1.0], [0.2]], dtype=torch.float64)
    if where == "forward":
        a[1] = 0.7
    with fo.record() as seen:
        x = fo.fold(step, 2 * c.detach(), c, a, on_failure="mask", adjoint=adjoint)
        x.sum().backward()
    assert c.grad is not None
    torch.testing.assert_close(c.grad, torch.tensor([[2.0], [0.0], [2.0]], dtype=torch.float64))
    outermost = seen.events[-1]
    assert fo.Status.failed(outermost.status).tolist() == [False, True, False]

    again = c.detach().requires_grad_()
    with pytest.raises(fo.FoldError, match=r"1 \w+ \(first: sample 1 of 3\)"):
        fo.fold(step, 2 * c.detach(), again, a, adjoint=adjoint).sum().backward()
