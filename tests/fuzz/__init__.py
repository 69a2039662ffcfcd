"""Calls of the public API, drawn at random: see :mod:`tests.fuzz.calls`."""
