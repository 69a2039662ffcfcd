"""Operators inside a step that are optimizations themselves, each folded in its turn."""

from __future__ import annotations

from foldopt.operators._kkt import PrimalDual
from foldopt.operators.polyhedron import polyhedron
from foldopt.operators.quadratic_program import Method, quadratic_program
from foldopt.operators.total_variation_2d import total_variation_2d

__all__ = ["Method", "PrimalDual", "polyhedron", "quadratic_program", "total_variation_2d"]
