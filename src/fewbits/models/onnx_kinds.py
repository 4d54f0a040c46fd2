"""ONNX operator names in the project's own vocabulary."""

from __future__ import annotations

from fewbits.graph import Kind

# Operators of the default domain and, where the name is the same, of com.microsoft.
KINDS = {
    "Conv": Kind.CONV,
    "ConvTranspose": Kind.CONV_TRANSPOSE,
    "MatMul": Kind.MATMUL,
    "Gemm": Kind.GEMM,
    "LSTM": Kind.LSTM,
    "GRU": Kind.GRU,
    "RNN": Kind.RNN,
    "Gather": Kind.GATHER,
    "BatchNormalization": Kind.BATCH_NORM,
    "Add": Kind.ADD,
    "Mul": Kind.MUL,
    "Relu": Kind.RELU,
    "Clip": Kind.CLIP,
    "HardSwish": Kind.HARD_SWISH,
    "HardSigmoid": Kind.HARD_SIGMOID,
    "Sigmoid": Kind.SIGMOID,
    "Gelu": Kind.GELU,
    "FastGelu": Kind.GELU,
    "Softmax": Kind.SOFTMAX,
    "LayerNormalization": Kind.LAYER_NORM,
    "Concat": Kind.CONCAT,
    "MaxPool": Kind.MAX_POOL,
    "AveragePool": Kind.AVERAGE_POOL,
    "GlobalAveragePool": Kind.GLOBAL_AVERAGE_POOL,
    "Reshape": Kind.RESHAPE,
    "Flatten": Kind.RESHAPE,
    "Squeeze": Kind.RESHAPE,
    "Unsqueeze": Kind.RESHAPE,
    "Transpose": Kind.TRANSPOSE,
    "Slice": Kind.SLICE,
}


# What the operators that compute on codes, or make or read them, are called in both domains.
_QUANTIZE = (
    "Quantize",
    "Dequantize",
    "DynamicQuantize",
    "QLinear",
    "QOrdered",
    "QAttention",
    "QEmbed",
    "QGemm",
    "QMoE",
)
_QUANTIZE_PRODUCTS = ("ConvInteger", "MatMulInteger", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized")


def kind(domain: str, op_type: str) -> Kind:
    """The kind of an operator; other domains than ONNX's and ONNX Runtime's are OTHER."""
    if domain not in ("", "ai.onnx", "com.microsoft"):
        return Kind.OTHER
    if op_type.startswith((*_QUANTIZE, *_QUANTIZE_PRODUCTS)):
        return Kind.QUANTIZE
    return KINDS.get(op_type, Kind.OTHER)
