"""What a group costs in a scheme: measured seconds that are kept, and models of hardware that is not at hand."""
