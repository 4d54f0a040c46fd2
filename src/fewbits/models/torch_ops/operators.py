"""Operators of our own, which a compiler and an exporter take as they are: ``fewbits::<name>`` in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

Kernel = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

_LIBRARY: Final = torch.library.Library("fewbits", "FRAGMENT")  # type: ignore[no-untyped-call]
"""torch keeps operators as long as this lives."""


def define(schema: str, meta: Kernel, *, cpu: Kernel | None = None, cuda: Kernel | None = None) -> None:
    """Make the operator ``torch.ops.fewbits.<name>`` that `schema` declares (``name(Tensor x, …) -> Tensor``).

    `meta` gives empty tensors of the results' shapes, types and strides. torch refuses a device without a kernel.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    for device, kernel in (("CPU", cpu), ("CUDA", cuda)):
        if kernel is not None:
            _LIBRARY.impl(name, kernel, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"fewbits::{name}", meta, lib=_LIBRARY)
