"""What flows into a branch at its ends, and how it changes with the voltages there.

With V = v e^{jα} at both ends and θ = α_f − α_t, the power that enters at the first end is

    S_f = V_f conj(Y_ff V_f + Y_ft V_t) = conj(Y_ff) v_f² + conj(Y_ft) v_f v_t e^{jθ},

and likewise S_t with e^{−jθ}. So all four flows are linear in four monomials,

    m = (v_f², v_t², e, d),    e = v_f v_t cos θ,    d = v_f v_t sin θ.

With Y = G + jB they are

    P_f =  G_ff v_f² + G_ft e + B_ft d,    Q_f = −B_ff v_f² − B_ft e + G_ft d,
    P_t =  G_tt v_t² + G_tf e − B_tf d,    Q_t = −B_tt v_t² − B_tf e − G_tf d.

Only the derivatives of m are needed then, in θ, v_f and v_t, and a weighted sum of flows is one
weighted sum of monomials, with weights q:

    ∂θ: −d q_e + e q_d            ∂v_f: 2 v_f q_1 + v_t k          ∂v_t: 2 v_t q_2 + v_f k
    ∂θθ: −e q_e − d q_d           ∂θv_f: v_t k'                    ∂θv_t: v_f k'
    ∂v_f v_f: 2 q_1               ∂v_f v_t: k                      ∂v_t v_t: 2 q_2,

where k = q_e cos θ + q_d sin θ and k' = ∂k/∂θ = q_d cos θ − q_e sin θ.

Everything here is arithmetic, for arrays and for tensors alike; branches are the last dimension.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Ends", "alone", "coefficients", "curvature", "flows", "slope", "weights"]


class Ends(NamedTuple):
    """The voltages at the ends of all branches: magnitudes, and cos and sin of θ."""

    v_f: Any
    v_t: Any
    cos: Any
    sin: Any


def coefficients(admittance: np.ndarray) -> np.ndarray:
    """For P_f, Q_f, P_t, Q_t those of the end's own v², of e and of d: ``(4, 3, l)``."""
    G, B = np.real(admittance), np.imag(admittance)
    return np.array(
        [
            [G[:, 0, 0], G[:, 0, 1], B[:, 0, 1]],
            [-B[:, 0, 0], -B[:, 0, 1], G[:, 0, 1]],
            [G[:, 1, 1], G[:, 1, 0], -B[:, 1, 0]],
            [-B[:, 1, 1], -B[:, 1, 0], -G[:, 1, 0]],
        ]
    )


def flows(at: Ends, matrix: Any) -> list[Any]:
    """P_f, Q_f, P_t and Q_t."""
    both = at.v_f * at.v_t
    e, d = both * at.cos, both * at.sin
    own = at.v_f * at.v_f, at.v_t * at.v_t
    return [a * own[i // 2] + b * e + c * d for i, (a, b, c) in enumerate(matrix)]


def weights(w: list[Any], matrix: Any) -> tuple[Any, Any, Any, Any]:
    """The weights q of the monomials in the sum of flows with weights w."""
    (p_f, p_fe, p_fd), (q_f, q_fe, q_fd), (p_t, p_te, p_td), (q_t, q_te, q_td) = matrix
    a, b, c, d = w
    return (
        a * p_f + b * q_f,
        c * p_t + d * q_t,
        a * p_fe + b * q_fe + c * p_te + d * q_te,
        a * p_fd + b * q_fd + c * p_td + d * q_td,
    )


def alone(i: int, matrix: Any) -> tuple[Any, Any, Any, Any]:
    """The weights q of flow number i."""
    own, q_e, q_d = matrix[i]
    return (own, 0 * own, q_e, q_d) if i < 2 else (0 * own, own, q_e, q_d)


def slope(at: Ends, q: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any]:
    """The derivatives of Σ q m in θ, v_f and v_t."""
    first, second, q_e, q_d = q
    cross = q_e * at.cos + q_d * at.sin
    turn = q_d * at.cos - q_e * at.sin
    return (
        at.v_f * at.v_t * turn,
        2 * at.v_f * first + at.v_t * cross,
        2 * at.v_t * second + at.v_f * cross,
    )


def curvature(at: Ends, q: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any, Any, Any]:
    """The second derivatives of Σ q m: θθ, θv_f, θv_t, v_f v_f, v_f v_t, v_t v_t."""
    first, second, q_e, q_d = q
    cross = q_e * at.cos + q_d * at.sin
    turn = q_d * at.cos - q_e * at.sin
    return -at.v_f * at.v_t * cross, at.v_t * turn, at.v_f * turn, 2 * first, cross, 2 * second
