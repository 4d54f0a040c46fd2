"""PyTorch models behind the `Model` protocol: exported to a flat graph of ATen calls, observed and converted there."""
