"""Writing models: clones, new files, manifests, the output tree, and checking what was written."""
