"""From activations to ranges: streaming statistics and the methods that choose a range."""
