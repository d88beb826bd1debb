"""rna-watch: better models from the checkpoints of a living training run.

`extrapolate`, `watch` and `open_run` are the Python API (docs/python.md). Importing this package is light: it loads neither
torch, Ray nor watchdog; what a function needs comes with its first use.
"""

from importlib import import_module

__version__ = "0.2.0"
__all__ = ["__version__", "extrapolate", "open_run", "watch"]


def __getattr__(name: str) -> object:
    if name not in {"extrapolate", "open_run", "watch"}:
        raise AttributeError(f"module 'rna_watch' has no attribute {name!r}")
    return getattr(import_module("rna_watch.api"), name)


def __dir__() -> list[str]:
    return __all__
