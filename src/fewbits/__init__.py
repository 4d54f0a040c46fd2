"""fewbits finds the fewest bits that a model can bear, by measuring."""
