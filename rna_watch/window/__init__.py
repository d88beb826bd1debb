"""Bulk work on the checkpoints of a window, cut into tasks."""
