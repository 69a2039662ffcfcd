"""Where to draw the buses of a grid that has no map."""

from __future__ import annotations

import numpy as np

__all__ = ["spring_layout"]


def spring_layout(count: int, ends: np.ndarray, steps: int = 400) -> np.ndarray:
    """Places in the plane where neighbours are near and others apart.

    Every pair of buses repels with 1/d, every branch pulls with d²; the begin is the plane of the
    graph Laplacian's second and third eigenvector, so that there is nothing random in it.

    Parameters
    ----------
    count
        How many buses.
    ends
        The buses at the ends of each branch, ``(2, l)``.
    steps
        Of the relaxation, each shorter than the one before.

    Returns
    -------
    np.ndarray
        ``(count, 2)``, in the unit square.

    References
    ----------
    T. Fruchterman, E. Reingold, Software: Practice and Experience 21 (1991), 1129–1164.

    Examples
    --------
    A chain stays one: its ends are farthest apart.

    >>> places = spring_layout(4, np.array([[0, 1, 2], [1, 2, 3]]))
    >>> far = np.linalg.norm(places[:, None] - places, axis=-1)
    >>> bool(far[0, 3] == far.max())
    True
    """
    near = np.zeros((count, count))
    near[ends[0], ends[1]] = near[ends[1], ends[0]] = 1
    np.fill_diagonal(near, 0)
    _, vectors = np.linalg.eigh(np.diag(near.sum(1)) - near)
    plane = vectors[:, 1:3] if count > 2 else np.eye(count, 2)
    # Eigenvectors have either sign: the first entry of any size is made positive.
    signs = [np.sign(axis[np.argmax(np.abs(axis) > 1e-6)]) or 1.0 for axis in plane.T]
    # Buses in one place would never part.
    angle = 2.4 * np.arange(count)[:, None]
    places = plane * signs + 1e-3 * np.concatenate([np.cos(angle), np.sin(angle)], 1)
    places = places / (np.abs(places).max() or 1.0)
    ideal = 1 / np.sqrt(count)
    for step in range(steps):
        apart = places[:, None] - places
        distance = np.maximum(np.linalg.norm(apart, axis=-1), 1e-3)
        force = ideal**2 / distance**2 - near * distance / ideal
        move = (apart * force[..., None]).sum(1)
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-12)
        places = places + move / length * np.minimum(length, 0.1 * (1 - step / steps))
    places = places - places.min(0)
    return places / (places.max(0) + 1e-12)
