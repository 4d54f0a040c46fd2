"""Remedies: what wins accuracy back without another format, and why it was lost."""
