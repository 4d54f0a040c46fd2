"""A PyTorch model as ONNX, and which node of the one graph came from which of the other.

`torch.onnx.export` keeps the names of the calls that it translates in the metadata of the nodes
(``pkg.torch.onnx.name_scopes``), and a program that is traced again keeps where its calls came from
(``node.meta["from_node"]``, torch.fx.traceback): the two together lead from every ONNX node to a call of the program.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import onnx
import torch
from torch import fx, nn
from torch.fx import traceback

from fewbits.errors import ModelError
from fewbits.models.onnx_model import OnnxModel
from fewbits.models.protocol import Model, Twins
from fewbits.models.pytorch.graph import element_of
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.pytorch.program import Program, weight_of
from fewbits.transfer import Correspondence, correspond

_SCOPES = "pkg.torch.onnx.name_scopes"
_OURS = "Interpreter__Replayed"
"""The pass that torch says a call came from, where it came from one of a `Program`."""
_KEPT = (_SCOPES, "pkg.torch.onnx.class_hierarchy", "namespace")
_FREE = 3
"""The size that a free axis is traced with where nothing tells: one of 1 or 2 could be taken for fixed."""


def twins_of(model: Model) -> Twins:
    """`export_onnx` of a model that is known to be a PyTorch model."""
    assert isinstance(model, TorchModel)
    return export_onnx(model)


def export_onnx(model: TorchModel) -> Twins:
    """`model` beside its ONNX form, with the same names of inputs and outputs, and free axes where it
    has them.

    The bytes depend on the program alone, so that a plan for them can be applied again later.
    Raises ModelError if onnxscript is not installed, or an operator has no form in ONNX.
    """
    if find_spec("onnxscript") is None:
        raise ModelError("a module is exported to ONNX by the package onnxscript: pip install onnxscript")
    program = model.program
    arguments, axes = _example(program)
    try:
        with _quiet(), torch.no_grad():
            traced = torch.export.export(_Replay(program), arguments, dynamic_shapes=(axes,), strict=False)
            exported = torch.onnx.export(
                traced,
                dynamo=True,
                verbose=False,
                input_names=[str(node.target) for node in program.inputs],
                output_names=_output_names(model),
            )
        assert exported is not None and exported.exported_program is not None
        proto, translated = _plain(exported.model_proto), exported.exported_program
    # The exporter raises what each translation raises, and errors of its own that share no base.
    except Exception as error:
        said = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise ModelError(
            f"the module cannot be exported to ONNX: {said.strip()[:300]}. Tune it on PyTorch (target torch:cpu)"
        ) from error
    found = OnnxModel.from_proto(proto)
    return Twins(model, found, _same(model, found, proto, translated))


class _Replayed(fx.Interpreter):
    """Runs the calls of a program with the weights of whatever module is being traced."""

    def __init__(self, program: Program, root: nn.Module) -> None:
        super().__init__(program.module)
        self._root = root

    def fetch_attr(self, target: str) -> object:
        """The weight `target` of the traced module."""
        return weight_of(self._root, target)


class _Replay(nn.Module):
    """A program as a module with the same weights under the same names, whose calls tell where they come from."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        # In a tuple: a module among the attributes would become a part of this one.
        self._hidden = (program,)
        module = program.module
        for name, child in module.named_children():
            self.add_module(name, child)
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            self.register_buffer(name, buffer)

    def forward(self, *tensors: torch.Tensor) -> object:
        """What the program gives."""
        with traceback.preserve_node_meta():
            return _Replayed(self._hidden[0], self).run(*tensors)


def _example(program: Program) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, object], ...]]:
    """Arguments of the shapes that the program was traced with, and the axes that are free."""
    arguments, axes = [], []
    for node in program.inputs:
        value = node.meta["val"]
        free = {axis: torch.export.Dim.AUTO for axis, size in enumerate(value.shape) if not isinstance(size, int)}
        shape = [size if isinstance(size, int) else _hint(size) for size in value.shape]
        device = next((one.device for one in program.module.parameters()), torch.device("cpu"))
        arguments.append(torch.zeros(shape, dtype=value.dtype, device=device))
        axes.append(dict[int, object](free))
    return tuple(arguments), tuple(axes)


def _hint(size: torch.SymInt) -> int:
    hint = size.node.hint
    return int(hint) if hint is not None else _FREE


def _output_names(model: TorchModel) -> list[str]:
    """The names of what the model gives; a value that is given twice has one name in ONNX, so it keeps the first."""
    return [tensor.name for tensor in model.outputs]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and the exporter say about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` without stack traces and the like, which name files of this machine."""
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    for node in (*found.graph.node, *(node for function in found.functions for node in function.node)):
        kept = [(one.key, one.value) for one in node.metadata_props if one.key in _KEPT]
        del node.metadata_props[:]
        for key, value in sorted(kept):
            node.metadata_props.add(key=key, value=value)
        node.doc_string = ""
    for holder in (found, found.graph):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for value in (*found.graph.input, *found.graph.output, *found.graph.value_info, *found.graph.initializer):
        del value.metadata_props[:]
    return found


def _same(
    model: TorchModel, found: OnnxModel, proto: onnx.ModelProto, traced: torch.export.ExportedProgram
) -> Correspondence:
    """What belongs together in the graphs of the module and of its export."""
    names = _nodes_by_call(model)
    sources = {node.name: _source(node) for node in traced.graph.nodes}
    origin = {name: names[source] for name, source in sources.items() if source in names}
    calls = {node.name: origin[scope] for node in proto.graph.node if (scope := _scope(node)) in origin}
    graph = model.graph
    values = {name: graph.node[node].outputs[0] for name, node in origin.items()}
    values = {name: tensor for name, tensor in values.items() if name in found.graph.tensors}
    values |= {tensor.name: tensor.name for tensor in model.inputs}
    values |= dict(zip(found.graph.outputs, graph.outputs, strict=True))
    return correspond(graph, found.graph, calls, values)


def _nodes_by_call(model: TorchModel) -> Mapping[str, str]:
    """Name of a call in the program → name of the node in our graph that it is, or is the result of."""
    known = model.described.names
    found: dict[str, str] = {}
    for call in model.program.graph.nodes:
        source = element_of(call) or call
        if source in known:
            found[call.name] = known[source]
    return found


def _scope(node: onnx.NodeProto) -> str:
    """The name of the call that `node` was translated from; "" where it is not told."""
    text = next((one.value for one in node.metadata_props if one.key == _SCOPES), "")
    scopes = ast.literal_eval(text) if text else []
    return str(scopes[-1]) if scopes else ""


def _source(node: fx.Node) -> str:
    """The call of the program that `node` came from, over however many passes; "" where it came from none."""
    return next(_history(node.meta.get("from_node") or ()), "")


def _history(sources: Sequence[traceback.NodeSource]) -> Iterator[str]:
    for source in sources:
        if source.pass_name == _OURS:
            yield source.name
        yield from _history(source.from_node or ())
