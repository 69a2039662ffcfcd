"""The command ``fold-opt``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    raise SystemExit("fold-opt: no experiment is installed yet")
