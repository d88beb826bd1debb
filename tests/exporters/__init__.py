"""Tests of what a run is shown with outside of rna-watch."""
