"""The loop that owns clock, threads, signals and lock."""
