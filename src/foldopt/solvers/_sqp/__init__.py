"""The parts of our own sequential quadratic programming."""
