"""One file a command: what `rna-watch NAME` does."""
