"""The only door to runtimes: `open_target`."""
