"""Which plan to try next; sees tables, never models or data."""
