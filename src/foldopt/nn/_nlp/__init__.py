"""The nonlinear program layer: its functions, its forward pass, and the system of its adjoint."""
