"""Codes of a tensor once for all that read them, and back."""

from __future__ import annotations

from typing import Final

import torch

from fewbits.formats.integer import UINT8, IntFormat
from fewbits.formats.numerics.affine import of_range
from fewbits.models.torch_ops.activation_codes import SHIFT, Ends, encode
from fewbits.models.torch_ops.operation import Range

ENCODES: Final = "uint8.quantize"
DECODES: Final = "uint8.dequantize"
"""The words by which attribution knows them, behind the name of the tensor."""


class _Ends(torch.nn.Module):
    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, values: Range, element: IntFormat) -> None:
        super().__init__()
        found, shift = of_range(*values, element), SHIFT if element.signed else 0
        self.ends = Ends.of(element).moved(shift)
        self.register_buffer("scale", torch.tensor(float(found.scale), dtype=torch.float32))
        self.register_buffer("zero", torch.tensor(float(int(found.zero_point) + shift), dtype=torch.float32))


class Encode(_Ends):
    """Floats to unsigned codes of 8 bits: `element`'s for `values` (least, largest), plus 128 if they are signed. Those
    of `images` (batch, channels, height, width) lie channels last in memory, as convolutions read them."""

    def __init__(self, values: Range, element: IntFormat, *, images: bool = False) -> None:
        super().__init__(values, element)
        # The layout itself cannot be stored.
        self.images = images

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of `x`, of its shape."""
        layout = torch.channels_last if self.images else torch.preserve_format
        return encode(x, self.scale, self.zero, self.ends, torch.uint8, layout)


class Decode(_Ends):
    """Unsigned codes of 8 bits to the float32 values that they stand for."""

    def __init__(self, values: Range) -> None:
        super().__init__(values, UINT8)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Values of `codes`, of their shape."""
        return codes.float().sub_(self.zero).mul_(self.scale)
