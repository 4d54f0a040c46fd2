"""A worker whose models are one line of JSON that says how they behave; run as a program by test_benchmark."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, Self

from fewbits.errors import DataError, ModelError, TargetError
from fewbits.targets.worker import main


class FakeSession:
    """Sleeps, prints, dies or hangs as its model says."""

    def __init__(self, behaviour: dict[str, Any]) -> None:
        self.behaviour = behaviour
        self.calls = 0
        # Written to, or the system would not give it.
        self.ballast = bytearray(b"x") * behaviour.get("ballast", 0)

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        if set(inputs) != set(self.behaviour.get("inputs", ["x"])):
            raise DataError(f"inputs {sorted(inputs)} do not fit")
        if self.behaviour.get("chatter"):
            sys.stdout.write("a library says hello\n")
            os.write(1, b"and its C code, too\n")
        if self.calls > self.behaviour.get("dies_after", 1e9):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls > self.behaviour.get("hangs_after", 1e9):
            time.sleep(1000)
        if self.behaviour.get("raises"):
            raise RuntimeError("a bug in the runtime")
        time.sleep(self.behaviour.get("sleep", 0.001))
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class FakeTarget:
    """Opens fake models."""

    def __init__(self, name: str, threads: int, streams: int) -> None:
        self.name = name
        self.threads = threads
        self.streams = streams

    def open(self, artifact: Any) -> FakeSession:
        try:
            return FakeSession(json.loads(artifact.content))
        except json.JSONDecodeError as error:
            raise ModelError("this is not a fake model") from error


def open_fake(text: str, threads: int, streams: int) -> Any:
    """Give a fake target, or refuse as a door does."""
    if text != "fake":
        raise TargetError(f"unknown target {text!r}; choose fake")
    return FakeTarget(text, threads, streams)


if __name__ == "__main__":
    main(open_fake)
    sys.exit(0)
