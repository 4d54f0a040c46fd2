"""What conversion gives back, and what a PyTorch target opens: a module that is called like the original."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pickle import UnpicklingError
from typing import Self

import torch
from torch import fx, nn
from torch.fx.node import Argument, map_aggregate

from fewbits.data.batches import Array
from fewbits.errors import ModelError
from fewbits.graph import Tensor
from fewbits.models.protocol import TORCH, Artifact
from fewbits.models.pytorch.call_form import CallForm
from fewbits.models.pytorch.inference import Inference
from fewbits.models.pytorch.retracing import Retracing


@dataclass(frozen=True, slots=True)
class Label:
    """What a call stands for: `name` is a node of the model, or a tensor and what is done to it. A module that computes
    at low precision has a `kernel` and what it multiplies in; `along` are nodes whose codes its kernel adds."""

    name: str
    kernel: str = ""
    precision: str = ""
    along: tuple[str, ...] = ()


class Converted(Inference):
    """A converted model. It takes and gives what the original does; `schemes` says how its groups compute, `labels`
    what each of its calls, in order, stands for; `reads` describes its flat inputs.

    ``state_dict``, ``torch.save``, ``copy.deepcopy`` and ``torch.compile`` work as with any module; its parameters do
    not require gradients. It can be moved to another device unless groups of it, which `bound` names, multiply by
    kernels of the one that it was made for.
    """

    bound: tuple[str, ...] = ()
    made_for: str = "cpu"

    def __init__(
        self,
        module: fx.GraphModule,
        call: CallForm,
        schemes: Mapping[str, str],
        labels: Sequence[Label],
        reads: Sequence[Tensor] = (),
        bound: Sequence[str] = (),
    ) -> None:
        super().__init__()
        # How the graph is written down again when it is loaded, here and in copies of it.
        module.graph._tracer_cls = module._tracer_cls = Retracing
        self.graph_module = module
        self.call = call
        self.schemes = dict(schemes)
        self.labels = tuple(labels)
        self.reads = tuple(reads)
        self.bound = tuple(bound)
        self.made_for = _device(module).type
        self.train(False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """What moves and casts modules. Raises ModelError where its kernels are those of another device."""
        self._check(fn(torch.empty(0, device=_device(self))).device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.settle()
        return self

    def settle(self) -> None:
        """Let calls that name a device name that of the weights. Raises ModelError as `_apply`."""
        device = _device(self)
        self._check(device)
        moved = False
        for node in self.graph.nodes:
            on = partial(_on, device)
            args, kwargs = map_aggregate(node.args, on), map_aggregate(node.kwargs, on)
            if (args, kwargs) != (node.args, node.kwargs):
                node.args, node.kwargs = args, kwargs
                moved = True
        if moved:
            self.graph_module.recompile()

    def _check(self, device: torch.device) -> None:
        if self.bound and device.type != self.made_for:
            raise ModelError(
                f"the model was converted for {self.made_for}, and {self.bound[0]} multiplies by a kernel that is not "
                f"there on {device.type}; convert the original for {device.type}, with the same plan if it can be"
            )

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the original gives. Raises DataError for arguments of another form."""
        found = self.graph_module(*self.call.flat(args, kwargs))
        return self.call.structured(found)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every tensor that is given back, in order."""
        return self.call.names

    @property
    def graph(self) -> fx.Graph:
        """The calls, casts included."""
        return self.graph_module.graph

    def __repr__(self) -> str:
        """A line per group that left fp32."""
        rows = [f"  ({name}): {scheme}" for name, scheme in self.schemes.items() if scheme != "fp32"]
        kept = len(self.schemes) - len(rows)
        return "\n".join(["Converted(", *rows, *([f"  {kept} more groups: fp32"] if kept else []), ")"])


def size_of(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of `module`; what is shared counts once."""
    tensors: dict[int, torch.Tensor] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        tensors[tensor.data_ptr() if tensor.numel() else id(tensor)] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def array_of(value: object) -> Array:
    """A tensor as an array; bfloat16 as float32, which holds it exactly."""
    assert isinstance(value, torch.Tensor), f"a tensor was expected, not {type(value).__name__}"
    plain = value.detach().cpu()
    found: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy()
    return found


def _device(module: nn.Module) -> torch.device:
    """Where the weights of `module` are; the CPU where there are none."""
    return next((one.device for one in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _on(device: torch.device, value: Argument) -> Argument:
    return device if isinstance(value, torch.device) and value.type != device.type else value


def artifact(module: Converted) -> Artifact:
    """`module` as bytes that `opened` reads."""
    stream = io.BytesIO()
    torch.save(module, stream)
    return Artifact(stream.getvalue(), suffix=TORCH)


def opened(content: bytes, device: str = "") -> Converted:
    """The module of an artifact, on `device`, by default where it was when it was stored. It holds code: open only what
    you trust, as with ``torch.load``.

    Raises ModelError if it is none, or was made for another device and cannot be moved.
    """
    found = unpickled(content, device)
    if not isinstance(found, Converted):
        raise ModelError(f"not a converted PyTorch model, but {type(found).__name__}; give the file that save() wrote")
    return found


def unpickled(content: bytes, device: str = "") -> nn.Module:
    """The module that ``save`` or ``torch.save`` wrote, on `device`, by default where it was, or on the CPU if there is
    no such device here. It holds code, as said above.

    Raises ModelError if it is none, has parts of a class that cannot be imported here, or cannot be moved."""
    place = device or (None if torch.cuda.is_available() else "cpu")
    try:
        found = torch.load(io.BytesIO(content), map_location=place, weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"the stored module has parts of a class that is not here ({error}); import what defines it first, or "
            "store what has been called once or was converted with example_inputs, which needs no class of yours"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise ModelError(f"not a converted PyTorch model: {error}") from error
    if not isinstance(found, nn.Module):
        raise ModelError(f"not a PyTorch module, but {type(found).__name__}; give what save() wrote")
    if isinstance(found, Converted):
        found.settle()
    return found
