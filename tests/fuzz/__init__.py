"""Damaged inputs for every reader: of checkpoints in every format, and of the state that we keep ourselves."""
