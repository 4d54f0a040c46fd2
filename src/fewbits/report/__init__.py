"""Pictures of a finished run, from its record alone."""
