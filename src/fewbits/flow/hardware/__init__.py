"""Hardware that is not at hand: emulated, with costs by models of it."""
