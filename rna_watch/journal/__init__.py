"""The run's journal: a public, versioned stream of events, and what it adds up to."""
