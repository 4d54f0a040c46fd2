"""Runs one saved call with oneDNN's log on: ``python -m fewbits.models.torch_ops.verbose_child call.pt``."""

from __future__ import annotations

import sys

import torch
from torch import fx

from fewbits.models.torch_ops.executed import CALL


class _Marking(fx.Interpreter):
    """Runs a graph call by call and says in the log, where it `says` so, which one comes."""

    says = False
    number = 0

    def run_node(self, n: fx.Node) -> object:
        """Run one call."""
        if n.op in ("call_function", "call_module"):
            if self.says:
                # oneDNN writes each line out at once, too.
                sys.stdout.write(f"{CALL}{self.number}\n")
                sys.stdout.flush()
            self.number += 1
        return super().run_node(n)


def main() -> None:
    """The log goes to the standard output."""
    # Written by `executed` a moment ago, for this process alone.
    module, inputs, threads = torch.load(sys.argv[1], weights_only=False)
    torch.set_num_threads(threads)
    runs = _Marking(module) if isinstance(module, fx.GraphModule) else None
    call = module if runs is None else runs.run
    with torch.inference_mode():
        call(*inputs)
        if runs is not None:
            runs.says, runs.number = True, 0
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
            call(*inputs)


if __name__ == "__main__":
    main()
