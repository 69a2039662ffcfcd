"""``python -m foldopt``: the versions that a bug report needs; torch and numpy suffice for it."""

from __future__ import annotations

import sys

from foldopt._versions import report

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Write the report to the standard output.

    Parameters
    ----------
    arguments
        Those of the command line; there are none to give.

    Raises
    ------
    SystemExit
        If there are any.
    """
    if arguments:
        raise SystemExit(
            f"python -m foldopt takes no arguments, got {' '.join(arguments)!r}. It prints "
            "versions; studies, engines and reports are the command fold-opt's: fold-opt --help"
        )
    sys.stdout.write(report())


if __name__ == "__main__":
    main(sys.argv[1:])
