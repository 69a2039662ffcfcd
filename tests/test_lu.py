"""LU factors of a batch after ``torch.set_num_threads``, where PyTorch's own go wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from foldopt._lu import one_by_one

# In a process of its own: the number of threads is the whole process's, and what goes wrong may
# hang. 160 rows: PyTorch 2.13 fails there on x86, and is right up to 140.
_SCRIPT = """
import torch, foldopt as fo
torch.set_num_threads(2)
g = torch.Generator().manual_seed(0)
n, B = 160, 4
A = 0.5 * torch.randn(B, n, n, generator=g, dtype=torch.float64) / n**0.5
c = torch.randn(B, n, generator=g, dtype=torch.float64, requires_grad=True)
step = lambda x, A, c: (A @ x.unsqueeze(-1)).squeeze(-1) + c
eye = torch.eye(n, dtype=torch.float64)
x = torch.stack([torch.linalg.solve(eye - A[i], c[i].detach()) for i in range(B)])
w = torch.randn(B, n, generator=g, dtype=torch.float64)
(fo.fold(step, x, A, c, adjoint=fo.Dense()) * w).sum().backward()
right = torch.stack([torch.linalg.solve((eye - A[i]).mT, w[i]) for i in range(B)])
print(float((c.grad - right).abs().max()))

M = A @ A.mT + eye
inverse = fo.operators._inverse.symmetric_inverse(M)
print(float((M @ inverse - eye).abs().max()))
"""


def test_gradients_are_right_after_set_num_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ERROR" not in done.stdout + done.stderr
    errors = [float(line) for line in done.stdout.split()]
    assert len(errors) == 2
    assert max(errors) < 1e-10


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it looks from inside; the number itself stays."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("n", [5, 130])
def test_one_by_one_is_the_whole_batch(batch: tuple[int, ...], n: int) -> None:
    M = torch.randn(*batch, n, n, dtype=torch.float64) + n * torch.eye(n)
    b = torch.randn(*batch, n, 2, dtype=torch.float64)
    for function, given in (
        (torch.linalg.lu_factor_ex, (M,)),
        (torch.linalg.inv_ex, (M,)),
        (torch.linalg.solve_ex, (M, b)),
    ):
        for found, right in zip(one_by_one(function, *given), function(*given), strict=True):
            assert found.dtype == right.dtype
            torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("two_threads")
def test_what_is_large_goes_one_by_one() -> None:
    seen = []

    def inverse(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(matrices.shape)
        return torch.linalg.inv_ex(matrices)

    one_by_one(inverse, torch.eye(129).expand(3, -1, -1))
    one_by_one(inverse, torch.eye(128).expand(3, -1, -1))
    assert seen == [(129, 129)] * 3 + [(3, 128, 128)]
