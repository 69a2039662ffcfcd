"""Ipopt from the casadi wheel: its interface takes functions of ours in place of its own graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from foldopt.solvers._ipopt.derivatives import Oracle
from foldopt.solvers._ipopt.engines import Raw, Request

__all__ = ["solve"]


def solve(request: Request) -> Raw:
    """Run Ipopt once."""
    import casadi  # pyright: ignore[reportMissingImports]

    n, m, oracle = request.n, request.m, request.oracle
    rows, columns = request.pattern.jacobian_entries
    low, high = request.pattern.hessian.rows, request.pattern.hessian.columns
    J, order_J = _sparsity(casadi, m, n, rows, columns)
    H, order_H = _sparsity(casadi, n, n, high, low)  # casadi has the upper triangle
    x, p, f, g = _dense(casadi, n), _dense(casadi, 0, 0), _dense(casadi, 1), _dense(casadi, m)
    build = functools.partial(_callback_class(), oracle)
    nlp = build(
        "nlp",
        lambda x, _p: (oracle.value(x), oracle.constraints(x)),
        {"x": x, "p": p},
        {"f": f, "g": g},
    )
    gradient = build(
        "nlp_grad_f",
        lambda x, _p: (oracle.value(x), oracle.gradient(x)),
        {"x": x, "p": p},
        {"f": f, "grad_f_x": x},
    )
    jacobian = build(
        "nlp_jac_g",
        lambda x, _p: (oracle.constraints(x), casadi.DM(J, oracle.jacobian(x)[order_J])),
        {"x": x, "p": p},
        {"g": g, "jac_g_x": J},
    )
    hessian = build(
        "nlp_hess_l",
        lambda x, _p, s, y: (casadi.DM(H, oracle.hessian(x, float(s[0]), y)[order_H]),),
        {"x": x, "p": p, "lam_f": f, "lam_g": g},
        {"triu_hess_gamma_x_x": H},
    )
    options = {
        "grad_f": gradient,
        "jac_g": jacobian,
        "hess_lag": hessian,
        "no_nlp_grad": True,  # it would differentiate a function that it cannot look into
        "calc_lam_p": False,
        "print_time": False,
        "error_on_fail": False,
        "show_eval_warnings": False,
        "ipopt": request.options,
    }
    try:
        solver = casadi.nlpsol("foldopt", "ipopt", nlp, options)
    except RuntimeError as error:  # a stack of C++ lines, the last of which says what it is
        raise RuntimeError(str(error).strip().splitlines()[-1]) from None
    given: dict[str, Any] = {
        "x0": request.start, "lbx": request.lower, "ubx": request.upper,
        "lbg": request.constraint_lower, "ubg": np.zeros(m),
    }  # fmt: skip
    if request.multipliers is not None:
        given |= {"lam_g0": request.multipliers[0], "lam_x0": request.multipliers[1]}
    found = solver(**given)
    return Raw(
        _flat(found["x"]),
        _flat(found["lam_g"]),
        _flat(found["lam_x"]),  # z_U − z_L already
        str(solver.stats()["return_status"]),
    )


def _dense(casadi: Any, rows: int, columns: int = 1) -> Any:
    return casadi.Sparsity.dense(rows, columns)


def _sparsity(casadi: Any, m: int, n: int, rows: np.ndarray, columns: np.ndarray) -> Any:
    """The pattern, and the order that its entries have there: column by column."""
    return (
        casadi.Sparsity.triplet(m, n, rows.tolist(), columns.tolist()),
        np.lexsort((rows, columns)),
    )


def _flat(value: Any) -> np.ndarray:
    return np.array(value, dtype=np.float64).reshape(-1)


@functools.cache
def _callback_class() -> Callable[..., Any]:
    import casadi  # pyright: ignore[reportMissingImports]

    class Function(casadi.Callback):
        """A function of numpy vectors, as one of casadi's."""

        def __init__(
            self,
            oracle: Oracle,
            name: str,
            function: Callable[..., tuple[Any, ...]],
            taken: dict[str, Any],
            given: dict[str, Any],
        ) -> None:
            casadi.Callback.__init__(self)
            self.numbers, self.function = oracle, function
            self.taken, self.given = list(taken.items()), list(given.items())
            self.construct(name, {})

        def get_n_in(self) -> int:
            return len(self.taken)

        def get_n_out(self) -> int:
            return len(self.given)

        def get_name_in(self, i: int) -> str:
            return self.taken[i][0]

        def get_name_out(self, i: int) -> str:
            return self.given[i][0]

        def get_sparsity_in(self, i: int) -> Any:
            return self.taken[i][1]

        def get_sparsity_out(self, i: int) -> Any:
            return self.given[i][1]

        def eval(self, arguments: Any) -> tuple[Any, ...]:
            """The values; NaN for all once something was raised, of which casadi would only print
            the traceback: it is kept, and raised when Ipopt has come back.
            """
            try:
                found = self.function(*(_flat(argument) for argument in arguments))
                for value, (name, sparsity) in zip(found, self.given, strict=True):
                    if isinstance(value, np.ndarray) and value.size != sparsity.nnz():
                        raise ValueError(
                            f"solvers.Ipopt: objective, inequality and equality gave {value.size} "
                            f"numbers ({name}) at a later x, and {sparsity.nnz()} at the start: "
                            "how many there are may not depend on x"
                        )
                return found
            except BaseException as error:
                self.numbers.error = self.numbers.error or error
                return tuple(casadi.DM(sparsity, np.nan) for _, sparsity in self.given)

    return Function
