"""scipy, loaded when it is first used: the library is there without it until an engine runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scipy import linalg, optimize, sparse
    from scipy.sparse import linalg as sparse_linalg

__all__ = ["linalg", "optimize", "sparse", "sparse_linalg"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"scipy.{name.replace('_', '.')}")
    except ImportError as error:
        raise ImportError(
            'foldopt: engines and sparse matrices need scipy: pip install "fold-opt[solvers]"'
        ) from error
    globals()[name] = module  # from now on an ordinary attribute
    return module
