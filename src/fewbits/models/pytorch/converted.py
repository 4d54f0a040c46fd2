"""What conversion gives back, and what a PyTorch target opens: a module that is called like the original."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pickle import UnpicklingError

import torch
from torch import fx, nn

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
    not require gradients.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        call: CallForm,
        schemes: Mapping[str, str],
        labels: Sequence[Label],
        reads: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        # How the graph is written down again when it is loaded, here and in copies of it.
        module.graph._tracer_cls = module._tracer_cls = Retracing
        self.graph_module = module
        self.call = call
        self.schemes = dict(schemes)
        self.labels = tuple(labels)
        self.reads = tuple(reads)
        self.train(False)

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


def artifact(module: Converted) -> Artifact:
    """`module` as bytes that `opened` reads."""
    stream = io.BytesIO()
    torch.save(module, stream)
    return Artifact(stream.getvalue(), suffix=TORCH)


def opened(content: bytes, device: str = "cpu") -> Converted:
    """The module of an artifact, on `device`. It holds code: open only what you trust, as with ``torch.load``.

    Raises ModelError if it is none.
    """
    found = unpickled(content, device)
    if not isinstance(found, Converted):
        raise ModelError(f"not a converted PyTorch model, but {type(found).__name__}; give the file that save() wrote")
    return found


def unpickled(content: bytes, device: str = "cpu") -> nn.Module:
    """The module that ``save`` or ``torch.save`` wrote. It holds code, as said above.

    Raises ModelError if it is none, or has parts of a class that cannot be imported here."""
    try:
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"the stored module has parts of a class that is not here ({error}); import what defines it first, or "
            "store what has been called once or was converted with example_inputs, which needs no class of yours"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise ModelError(f"not a converted PyTorch model: {error}") from error
    if not isinstance(found, nn.Module):
        raise ModelError(f"not a PyTorch module, but {type(found).__name__}; give what save() wrote")
    return found
