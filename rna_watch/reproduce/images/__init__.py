"""Networks on images, trained beside the daemon: data, architectures, the training, its judge, and one run of all these."""
