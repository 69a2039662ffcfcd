"""The total variation layer: its data, its forward passes, and the systems of its adjoints."""
