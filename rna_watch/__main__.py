"""`python -m rna_watch` is `rna-watch`."""

import sys

if not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))  # the current folder: what lies there does not stand in for the standard library

from rna_watch.cli import main

if __name__ == "__main__":  # children of the local engine import this module too
    main()
