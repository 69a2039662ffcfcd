"""AC optimal power flow: grids, power flows and their derivatives, and the forward pass."""
