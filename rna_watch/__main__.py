"""`python -m rna_watch` is `rna-watch`."""

from rna_watch.cli import main

if __name__ == "__main__":  # children of the local engine import this module too
    main()
