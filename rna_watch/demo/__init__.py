"""A real training run on real images, watched while it trains."""
