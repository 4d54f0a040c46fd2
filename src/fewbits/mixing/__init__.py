"""Which parts of a model leave float32 for a smaller float, by the user's lists and rules alone."""
