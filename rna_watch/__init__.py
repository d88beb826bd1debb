"""rna-watch: better models from the checkpoints of a living training run.

Importing this package is light: it loads neither torch, Ray nor watchdog.
"""

__version__ = "0.2.0"
