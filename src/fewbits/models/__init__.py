"""The only door to models: `open_model`."""
