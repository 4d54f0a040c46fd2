"""Bias correction of a module: what rounding the weight adds to the mean of an output is taken from the bias.

Source: Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2; means of inputs are those of calibration
data here. `models/onnx_bias.py` is the same for ONNX.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewbits.errors import PlanError
from fewbits.formats.granularity import Channel
from fewbits.formats.integer import IntFormat
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.means import parse
from fewbits.models.torch_ops.module import GivenCodes
from fewbits.models.weight_codes import channel_codes, given_channel_codes
from fewbits.refine.bias_correction import correct_analytically
from fewbits.refine.layer import Layer

Float = NDArray[np.float32]


def corrected(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scheme: Scheme,
    codes: GivenCodes | None,
    *,
    means: str,
    tensor: str,
    groups: int,
) -> torch.Tensor:
    """`bias` (outputs,), zeros where there is none, of a layer whose `weight` (outputs, inputs / groups, *kernel)
    becomes `codes`, or rounds to nearest in `scheme`. `means`, as text, are those of the channels of what it reads,
    called `tensor`. Raises PlanError if they, or the codes, are of another layer."""
    values: Float = weight.detach().float().cpu().numpy()
    before = np.zeros(len(values), np.float32) if bias is None else bias.detach().float().cpu().numpy()
    layer, found = Layer(values, before, groups), parse(means)
    if layer.inputs != len(found):
        raise PlanError(
            f"the plan has the means of {len(found)} channels of {tensor}, which has {layer.inputs}; it was made for "
            "another model"
        )
    made = correct_analytically(layer, _rounded(values, scheme, codes), found)
    return torch.from_numpy(made.bias.astype(np.float32)).to(weight.device)


def _rounded(weight: Float, scheme: Scheme, codes: GivenCodes | None) -> NDArray[Any]:
    """What `weight` becomes."""
    form = scheme.weight
    assert isinstance(form, ScaledFormat)
    if not isinstance(form.element, IntFormat):
        rows = replace(form, granularity=Channel(0)) if isinstance(form.granularity, Channel) else form
        return fake_quantize(weight, rows)
    made = channel_codes(weight, form, None, 1.0) if codes is None else given_channel_codes(codes, weight.shape)
    return made.codes * made.scale.reshape(-1, *[1] * (weight.ndim - 1))
