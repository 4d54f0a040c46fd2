"""What is asked for: objective, limits, effort; and plans held against them."""
