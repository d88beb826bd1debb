"""`python -m rna_watch` is `rna-watch`."""

from rna_watch.cli import main

main()
