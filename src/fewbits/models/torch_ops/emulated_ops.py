"""The operator `fewbits::fake_quantize`: `fewbits.formats.fake_quantize` in a graph that is compiled."""

from __future__ import annotations

import torch

from fewbits.formats.quantize import fake_quantize as _rounded
from fewbits.models.torch_ops.operators import define


def _fake_quantize(x: torch.Tensor, format: str, scale: torch.Tensor | None, zero: torch.Tensor | None) -> torch.Tensor:
    values = x.detach()
    found = _rounded(values, format, scale=scale, zero_point=0 if zero is None else zero).contiguous()
    # An operator may not give memory that it was given.
    return found.clone() if found.data_ptr() == values.data_ptr() else found


def _meta(x: torch.Tensor, format: str, scale: torch.Tensor | None, zero: torch.Tensor | None) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


define(
    "fake_quantize(Tensor x, str format, Tensor? scale, Tensor? zero) -> Tensor",
    _meta,
    cpu=_fake_quantize,
    cuda=_fake_quantize,
)

fake_quantize = torch.ops.fewbits.fake_quantize.default
"""`x` rounded to the format of this text; C order."""
