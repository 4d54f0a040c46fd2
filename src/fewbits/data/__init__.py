"""Data as users have it, read as batches."""
