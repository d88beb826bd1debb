"""One file for each command: what `rna-watch NAME` does."""
