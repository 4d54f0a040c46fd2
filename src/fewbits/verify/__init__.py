"""Whether a figure holds: splits, paired statistics, acceptance."""
