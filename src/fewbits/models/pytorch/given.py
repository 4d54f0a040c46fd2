"""Modules as users have them: unwrapped, copied without their weights, and refused where nothing can be converted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn
from torch.export.graph_signature import OutputKind
from torch.nn.parallel import DistributedDataParallel

from fewbits.errors import ModelError
from fewbits.models.pytorch.kinds import operator

_QUANTISED_MODULES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes")
_QUANTISED_TENSORS = ("torchao",)
_QUANTISED_CALLS = ("quantized", "quantized_decomposed", "torchao", "onednn")
_DROPPING = ("dropout", "native_dropout", "alpha_dropout", "feature_dropout", "bernoulli")
_FLOAT_AGAIN = "its numbers are rounded already, so give the float module that it was made from"


def unwrapped(module: nn.Module) -> nn.Module:
    """What is inside of wrappers that only distribute or compile a module."""
    while True:
        if isinstance(module, nn.DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(module, torch._dynamo.OptimizedModule):
            module = module._orig_mod
        else:
            return module


def on_device(module: nn.Module, device: str) -> nn.Module:
    """`module` where it is on `device`, or says nothing of one; else a copy there.

    Raises ModelError if it cannot be copied.
    """
    places = {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}
    if not places - {device}:
        return module
    try:
        return copy.deepcopy(unwrapped(module)).to(device)
    # Whatever the user's class does when it is copied.
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied to {device} ({type(error).__name__}: {error}), and the given "
            f"module is never changed; move it there before (module.to({device!r}))"
        ) from error


def in_evaluation(module: nn.Module) -> nn.Module:
    """A copy of the structure of `module` that shares its tensors, in evaluation mode.

    Raises ModelError if its class cannot be copied.
    """
    # Besides parameters and buffers, what hooks computed (torch.nn.utils.weight_norm): it cannot be copied.
    held = chain.from_iterable(vars(inner).values() for inner in module.modules())
    tensors = [*module.parameters(), *module.buffers(), *(one for one in held if isinstance(one, torch.Tensor))]
    try:
        twin = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    # Whatever the user's class does when it is copied.
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and the given module is "
            "never changed; give it a __deepcopy__ that works, or an ExportedProgram (torch.export.export)"
        ) from error
    return twin.eval()


def check(module: nn.Module) -> None:
    """Raises ModelError for modules that nobody can convert: TorchScript, quantised, without weights yet."""
    for name, inner in module.named_modules():
        where = name or type(module).__name__
        if isinstance(inner, torch.jit.ScriptModule):
            raise ModelError(
                f"{where} is TorchScript, which says nothing about its layers; give the torch.nn.Module that it was "
                "made from"
            )
        if type(inner).__module__.startswith(_QUANTISED_MODULES):
            raise ModelError(f"{where} ({type(inner).__name__}) is quantised; {_FLOAT_AGAIN}")
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise ModelError(
                f"the weight {name} is not initialised yet; call the module once on a batch, and train it or load its "
                "weights"
            )
        if tensor.is_quantized or type(tensor).__module__.startswith(_QUANTISED_TENSORS):
            raise ModelError(f"the weight {name} is quantised ({type(tensor).__name__}); {_FLOAT_AGAIN}")


def check_program(program: torch.export.ExportedProgram) -> None:
    """Raises ModelError for programs that nobody can convert: quantised, in training, or with effects."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if str(node.target).partition(".")[0] in _QUANTISED_CALLS:
            raise ModelError(f"the model calls {node.target}: it is quantised; {_FLOAT_AGAIN}")
        if operator(node.target) in _DROPPING and (True in node.args or operator(node.target) == "bernoulli"):
            raise ModelError(
                f"the model drops values at random ({node.name}), as in training; export it after eval(), and write "
                "F.dropout(x, training=self.training) in its code"
            )
    changed = [one for one in program.graph_signature.output_specs if one.kind is not OutputKind.USER_OUTPUT]
    if changed:
        what = f"its input {changed[0].target}" if changed[0].kind is OutputKind.USER_INPUT_MUTATION else "its buffer "
        name = "" if changed[0].kind is OutputKind.USER_INPUT_MUTATION else str(changed[0].target)
        raise ModelError(
            f"the model writes to {what}{name} when it is called; only models whose calls leave no trace are converted "
            "(no counters, no caches of keys and values, inputs left as they are)"
        )


def plain_state(module: nn.Module) -> Mapping[str, float]:
    """The numbers among the attributes of `module` and of those inside it."""
    return {
        f"{path}.{name}" if path else name: value
        for path, inner in module.named_modules()
        for name, value in vars(inner).items()
        if isinstance(value, int | float)
    }
