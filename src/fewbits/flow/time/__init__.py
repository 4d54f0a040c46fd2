"""The time that a run may take, and what its stages take."""
