"""Algorithms that win accuracy back at low precision: arrays in, arrays out."""
