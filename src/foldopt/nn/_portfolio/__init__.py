"""The portfolio layer: its data, the path to its solution, its step and its adjoint system."""
