"""Runs one saved call with oneDNN's log on: ``python -m fewbits.models.torch_ops.verbose_child call.pt``."""

from __future__ import annotations

import sys

import torch


def main() -> None:
    """The log goes to the standard output."""
    # Written by `executed` a moment ago, for this process alone.
    module, inputs = torch.load(sys.argv[1], weights_only=False)
    with torch.no_grad():
        module(*inputs)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
            module(*inputs)


if __name__ == "__main__":
    main()
