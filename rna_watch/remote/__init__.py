"""Runs whose checkpoints lie in an object store: fetched into a bounded folder, and models put back beside the originals."""
