"""The user's evaluator, called in long-lived processes."""
