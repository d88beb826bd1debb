"""Networks on images: their data, architectures, training and evaluator, and a run of them that the daemon watches."""
