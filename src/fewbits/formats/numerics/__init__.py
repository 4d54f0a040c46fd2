"""Rounding, scales, fits and codes of numpy arrays: the reference that every kernel equals bit for bit."""
