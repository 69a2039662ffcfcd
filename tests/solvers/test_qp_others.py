"""Engines that qpsolvers knows and we do not: quadprog stands for all of them."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch

from foldopt.solvers import QP
from foldopt.status import Status
from tests.engines import KNOWN, kkt, random_blocks, tensors

pytest.importorskip("quadprog")
# It factors Q, which must be positive definite.
STRONG = [
    name
    for name, known in KNOWN.items()
    if known.blocks["Q"] is not None
    and np.linalg.eigvalsh((np.array(known.blocks["Q"]) + np.array(known.blocks["Q"]).T) / 2)[0] > 0
]


@pytest.mark.parametrize("name", STRONG)
def test_known_answers(name: str) -> None:
    known = KNOWN[name]
    solution = QP("quadprog")(**tensors(known.blocks))
    if known.status != Status.CONVERGED:
        assert int(solution.status) == known.status
        assert torch.isnan(solution.x).all()
    elif int(solution.status) == Status.CONVERGED:
        torch.testing.assert_close(solution.x, torch.tensor(known.x).double())
        assert kkt(known.blocks, solution) < 1e-7
    else:
        # It cannot do without independent equalities, and says nothing else.
        assert name == "dependent equalities"
        assert "quadprog: no solution found" in solution.messages[0]


def test_random_programs_and_their_multipliers() -> None:
    for seed in range(5):
        blocks = random_blocks(12, 15, 3, seed)
        solution = QP("quadprog")(**tensors(blocks))
        assert int(solution.status) == Status.CONVERGED
        assert kkt(blocks, solution) < 1e-7


def test_what_qpsolvers_warns_of_is_a_status_here() -> None:
    infeasible = {"Q": np.eye(1), "p": [1.0], "G": [[1.0], [-1.0]], "h": [-1.0, -1.0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(QP("quadprog")(**tensors(infeasible)).status) == Status.INFEASIBLE


def test_it_has_no_settings_of_ours() -> None:
    with pytest.raises(ValueError, match="engine 'quadprog' has no time_limit; it has none"):
        QP("quadprog", time_limit=1.0)
    solver = pickle.loads(pickle.dumps(QP("quadprog")))
    assert solver == QP("quadprog")


def test_the_message_on_unknown_names_lists_it() -> None:
    with pytest.raises(ValueError, match=r"'moreau', .*'quadprog', got 'quadprogg'"):
        QP("quadprogg")
