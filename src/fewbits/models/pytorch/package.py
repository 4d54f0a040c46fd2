"""A converted module for programs without Python: compiled ahead of time by AOTInductor."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import fx

from fewbits.errors import ModelError, ToolError
from fewbits.graph import Tensor
from fewbits.models.pytorch.converted import Converted

_NAMESPACE = "fewbits"
_WITHOUT_OPERATORS = ("fp32", "bf16", "fp16")
_FIRST_SIZE = 3
"""The size that the first free axis is traced with; one of 1 or 2 could be taken for fixed."""


def package(module: Converted, path: Path) -> Path:
    """Compile `module` and write the package ``.pt2`` to `path`, which is given back. It takes the flat tensors that
    the module reads, in order, and gives a list of tensors; free axes stay free.

    Raises:
        ModelError: it cannot be traced, or has a layer that computes by an operator of fewbits, which is in Python.
        ToolError: it cannot be compiled; a C++ compiler is needed.
    """
    arguments, axes = _example(module)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            traced = torch.export.export(module.graph_module, arguments, dynamic_shapes=axes, strict=False)
        # torch.export raises a dozen errors of its own that share no base.
        except Exception as error:
            raise ModelError(f"the module cannot be exported for compilation: {_first_line(error)}") from error
        _check_operators(traced.graph, module)
        try:
            torch._inductor.aoti_compile_and_package(traced, package_path=str(path))
        # Whatever the compiler, the linker or the code generator say.
        except Exception as error:
            raise ToolError(
                f"the module cannot be compiled: {_first_line(error)}. AOTInductor needs a C++ compiler (g++ or "
                "clang++; the variable CXX names another one)"
            ) from error
    return path


def _check_operators(graph: fx.Graph, module: Converted) -> None:
    named = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    own = sorted({name.split(".")[1] for name in named if name.startswith(f"{_NAMESPACE}.")})
    if not own:
        return
    schemes = sorted({scheme for scheme in module.schemes.values() if scheme not in _WITHOUT_OPERATORS})
    raise ModelError(
        f"the module computes by {', '.join(own)}, operators of fewbits that a program without Python does not have; "
        f"of its schemes ({', '.join(schemes)}) int8 of linear layers, weights of 8 bits, bf16 and fp16 "
        "can be packaged: set the other layers to one of them, or save the model as ONNX"
    )


def _example(module: Converted) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, object], ...]]:
    """Arguments such as the module takes, and the axes whose size is free; axes of one name have one size."""
    sizes: dict[str, int] = {}
    device = next((one.device for one in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    arguments, axes = [], []
    for tensor in module.reads:
        shape = tensor.shape or ()
        for size in shape:
            if isinstance(size, str):
                sizes.setdefault(size, _FIRST_SIZE + 2 * len(sizes))
        known = [sizes[size] if isinstance(size, str) else size for size in shape]
        arguments.append(torch.zeros(known, dtype=_dtype(tensor), device=device))
        axes.append(dict[int, object](dict.fromkeys(_free(tensor), torch.export.Dim.AUTO)))
    return tuple(arguments), tuple(axes)


def _free(tensor: Tensor) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(tensor.shape or ()) if isinstance(size, str))


def _dtype(tensor: Tensor) -> torch.dtype:
    found = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}.get(tensor.dtype)
    if found is None:
        raise ModelError(f"the input {tensor.name} is of the type {tensor.dtype}, which is not packaged")
    return found


_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def _first_line(error: Exception) -> str:
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)
