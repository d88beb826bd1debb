"""Noticing checkpoints: events as hints, a scan as truth."""
