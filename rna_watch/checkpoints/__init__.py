"""Reading and writing of checkpoints through tensor extents; one module a format."""
