"""What conversion gives back, and what a PyTorch target opens: a module that is called like the original."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from fewbits.errors import ModelError
from fewbits.models.protocol import Artifact
from fewbits.models.pytorch.call_form import CallForm


class Converted(nn.Module):
    """A converted model. It takes and gives what the original does; `schemes` says how its groups compute, `labels`
    what each of its calls, in order, stands for: a node of the model, or a tensor and what is done to it.

    ``state_dict``, ``torch.save``, ``copy.deepcopy`` and ``torch.compile`` work as with any module. It is for
    inference: its parameters do not require gradients, and there is no training mode.
    """

    def __init__(
        self, module: fx.GraphModule, call: CallForm, schemes: Mapping[str, str], labels: Sequence[str]
    ) -> None:
        super().__init__()
        self.graph_module = module
        self.call = call
        self.schemes = dict(schemes)
        self.labels = tuple(labels)
        super().train(False)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the original gives. Raises DataError for arguments of another form."""
        found = self.graph_module(*self.call.flat(args, kwargs))
        return self.call.structured(found)

    def train(self, mode: bool = True) -> Converted:
        """Stay in evaluation mode. Raises ValueError if training is asked for."""
        if mode:
            raise ValueError("a converted model is for inference; train the original and convert it again")
        super().train(False)
        return self

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


def artifact(module: Converted) -> Artifact:
    """`module` as bytes that `opened` reads."""
    stream = io.BytesIO()
    torch.save(module, stream)
    return Artifact(stream.getvalue())


def opened(content: bytes, device: str = "cpu") -> Converted:
    """The module of an artifact, on `device`. It holds code: open only what you trust, as with ``torch.load``.

    Raises ModelError if it is none.
    """
    try:
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"not a converted PyTorch model: {error}") from error
    if not isinstance(found, Converted):
        raise ModelError(f"not a converted PyTorch model, but {type(found).__name__}; give the file that save() wrote")
    return found
