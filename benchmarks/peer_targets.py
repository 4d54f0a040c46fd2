"""Targets that only the benchmarks time, besides fewbits' own: OpenVINO's IR files, and whole models in bf16.

===================  ================================================================================================
``ir:cpu``           an IR of OpenVINO in fp32 where it is not int8; the candidate's file is text: the path of the .xml
``ir:bf16``          the same, bf16 where it is not int8
``openvino:bf16``    an ONNX model, bf16 throughout: OpenVINO's own choice on a CPU that has it
===================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import openvino as ov

from fewbits.data.batches import Arrays
from fewbits.errors import ModelError, TargetError
from fewbits.models.protocol import Artifact
from fewbits.targets import open_target
from fewbits.targets.openvino import OpenVino, OpenVinoSession, session_of
from fewbits.targets.probe import checked_threads
from fewbits.targets.protocol import Executed, Target

IR: Final = "ir:cpu"
IR_BF16: Final = "ir:bf16"
OPENVINO_BF16: Final = "openvino:bf16"
_PRECISIONS: Final = {IR: "f32", IR_BF16: "bf16", OPENVINO_BF16: "bf16"}


def open_peer(text: str, threads: int, streams: int = 1) -> Target:
    """The target that `text` names, fewbits' own included. Raises as `open_target`; TargetError on peers with more
    than one stream."""
    if text not in _PRECISIONS:
        return open_target(text, threads, streams)
    if streams != 1:
        raise TargetError(f"{text} is compared by latency, one call at a time; {streams} streams were asked for")
    return PeerOpenVino(checked_threads(threads), text=text)


@dataclass(frozen=True, slots=True)
class PeerOpenVino(OpenVino):
    """The CPU plug-in in one of the ways of the table above."""

    text: str = OPENVINO_BF16

    @property
    def name(self) -> str:
        """Text that `open_peer` reads back."""
        return self.text

    def open(self, artifact: Artifact) -> OpenVinoSession:
        """Compile `artifact`. Raises ModelError with the runtime's own words."""
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self.text],
        }
        core = ov.Core()
        try:
            model = (
                core.read_model(artifact.content, b"")
                if self.text == OPENVINO_BF16
                else core.read_model(Path(artifact.content.decode().strip()))
            )
            compiled = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO {ov.__version__} does not load the model: {error}") from error
        return session_of(compiled)

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """Peers are only timed. Raises TargetError."""
        raise TargetError(f"{self.text} does not tell what ran; open the model as openvino:cpu")
