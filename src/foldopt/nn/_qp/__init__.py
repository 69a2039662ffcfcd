"""The quadratic program layer: its data, its forward pass, and the system of its adjoint."""
