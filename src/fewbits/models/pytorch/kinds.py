"""ATen calls in the project's own vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fewbits.graph import Kind

KINDS: Final[Mapping[str, Kind]] = {
    "linear": Kind.GEMM,
    "addmm": Kind.GEMM,
    "conv1d": Kind.CONV,
    "conv2d": Kind.CONV,
    "conv3d": Kind.CONV,
    "conv_transpose1d": Kind.CONV_TRANSPOSE,
    "conv_transpose2d": Kind.CONV_TRANSPOSE,
    "conv_transpose3d": Kind.CONV_TRANSPOSE,
    "matmul": Kind.MATMUL,
    "bmm": Kind.MATMUL,
    "mm": Kind.MATMUL,
    "scaled_dot_product_attention": Kind.ATTENTION,
    "embedding": Kind.GATHER,
    "lstm": Kind.LSTM,
    "gru": Kind.GRU,
    "rnn_tanh": Kind.RNN,
    "rnn_relu": Kind.RNN,
    "_native_batch_norm_legit_no_training": Kind.BATCH_NORM,
    "add": Kind.ADD,
    "mul": Kind.MUL,
    "relu": Kind.RELU,
    "hardtanh": Kind.CLIP,
    "clamp": Kind.CLIP,
    "relu6": Kind.CLIP,
    "hardswish": Kind.HARD_SWISH,
    "hardsigmoid": Kind.HARD_SIGMOID,
    "sigmoid": Kind.SIGMOID,
    "gelu": Kind.GELU,
    "softmax": Kind.SOFTMAX,
    "_softmax": Kind.SOFTMAX,
    "layer_norm": Kind.LAYER_NORM,
    "cat": Kind.CONCAT,
    "max_pool1d": Kind.MAX_POOL,
    "max_pool2d": Kind.MAX_POOL,
    "max_pool2d_with_indices": Kind.MAX_POOL,
    "avg_pool1d": Kind.AVERAGE_POOL,
    "avg_pool2d": Kind.AVERAGE_POOL,
    "adaptive_avg_pool1d": Kind.AVERAGE_POOL,
    "adaptive_avg_pool2d": Kind.AVERAGE_POOL,
    "view": Kind.RESHAPE,
    "reshape": Kind.RESHAPE,
    "_unsafe_view": Kind.RESHAPE,
    "flatten": Kind.RESHAPE,
    "squeeze": Kind.RESHAPE,
    "unsqueeze": Kind.RESHAPE,
    "clone": Kind.RESHAPE,
    "contiguous": Kind.RESHAPE,
    "alias": Kind.RESHAPE,
    "transpose": Kind.TRANSPOSE,
    "permute": Kind.TRANSPOSE,
    "t": Kind.TRANSPOSE,
    "slice": Kind.SLICE,
    "select": Kind.SLICE,
}
"""Base name of an ATen operator → its kind; everything else is OTHER."""

JOINS: Final = frozenset({Kind.ADD, Kind.MUL})
"""Kinds that are what their name says between two tensors only."""


def operator(target: object) -> str:
    """The base name of an ATen operator, ``conv2d`` for ``aten.conv2d.default``; that of other functions as it is."""
    parts = str(target).split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "aten" else str(target)
