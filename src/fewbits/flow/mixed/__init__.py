"""`fewbits.mix_precision.fit` behind the door: convert, check, evaluate, and take back what costs accuracy."""
