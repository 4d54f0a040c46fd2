"""The other end of `worker`: a process that can be started, asked, paused and ended for sure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO, Any, Self

from fewbits import errors
from fewbits.errors import WorkerError

# -P: a file named like a library in the working directory must not be imported by the worker.
WORKER = (sys.executable, "-P", "-m", "fewbits.targets.worker")

_KINDS: Mapping[str, type[errors.FewbitsError]] = {
    kind.__name__: kind
    for kind in (
        errors.UsageError,
        errors.ModelError,
        errors.DataError,
        errors.SchemeError,
        errors.TargetError,
        errors.WorkerError,
    )
}
_LAST_WORDS = 2000
_END = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker opens. `inputs` is an ``.npz`` of positional arrays in the order of `names`; `streams` calls run
    at the same time, with 0 one after the other, each of them timed."""

    name: str
    model: Path
    target: str
    threads: int
    inputs: Path
    names: tuple[str, ...]
    streams: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """How long one block of calls is: at least `seconds` and `min_calls` (of each stream), after `drop` calls that do
    not count. At most `keep` calls, evenly spaced in time, are handed back."""

    seconds: float
    min_calls: int
    drop: int
    keep: int


class Worker:
    """A worker process that holds one opened model. A context manager: leaving it ends the process, running,
    paused or hung.

    Args:
        job: what to open.
        command: the program that speaks the worker's protocol.
        start_seconds: how long opening the model, and its first calls, may take.
    """

    def __init__(self, job: Job, *, command: Sequence[str] = WORKER, start_seconds: float = 300.0) -> None:
        self._job = job
        self._start_seconds = start_seconds
        self._last_words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._last_words,
                text=True,
                encoding="utf-8",
                errors="replace",
                # A group of its own: Ctrl-C reaches fewbits alone, which then ends its workers, and on POSIX
                # the system itself ends a group that is left behind stopped.
                process_group=None if sys.platform == "win32" else 0,
            )
        except OSError as error:
            self._last_words.close()
            raise WorkerError(f"{job.name}: cannot start {command[0]}: {error.strerror}") from error
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def open(self) -> None:
        """Load the model. Several workers may be opening at the same time; `wait` says when it is done.

        Raises:
            WorkerError: the process died.
        """
        job = self._job
        self._send(
            {
                "open": {
                    "model": str(job.model),
                    "target": job.target,
                    "threads": job.threads,
                    "streams": job.streams,
                    "inputs": str(job.inputs),
                    "names": list(job.names),
                }
            }
        )

    def wait(self) -> None:
        """Wait for `open` to be done.

        Raises:
            ModelError, DataError, TargetError: the model, the inputs or the target cannot be used.
            WorkerError: the process died, or the model did not open in time.
        """
        self._receive("ready", self._start_seconds)

    def run(self, block: Block, patience: float) -> tuple[float, ...]:
        """Seconds of each call in one block; with streams one figure, the seconds per completed call. Waits at most
        `patience` seconds.

        Raises:
            DataError, ModelError: the model cannot be called with these inputs.
            WorkerError: the process died or did not answer.
        """
        self._send(
            {
                "run": {
                    "seconds": block.seconds,
                    "min_calls": block.min_calls,
                    "drop": block.drop,
                    "keep": block.keep,
                }
            }
        )
        return tuple(self._receive("seconds", patience))

    def memory(self) -> int:
        """Peak resident bytes so far. Raises WorkerError."""
        self._send({"memory": {}})
        return int(self._receive("memory", self._start_seconds))

    def pause(self) -> None:
        """Take the process off the cores: runtimes keep their threads spinning after a call."""
        if sys.platform == "win32":
            time.sleep(0.05)
        else:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        if sys.platform != "win32":
            self._process.send_signal(signal.SIGCONT)

    @property
    def start_seconds(self) -> float:
        """How long opening the model, and its first calls, may take."""
        return self._start_seconds

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        # Killed, not asked: a stopped or hung process would not answer, and it holds nothing worth keeping.
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What was not yet written cannot be delivered any more.
                with suppress(OSError):
                    stream.close()
        self._last_words.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(_END)

    def _send(self, request: Mapping[str, object]) -> None:
        if self._process.stdin is None:
            raise self._died()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._died() from error

    def _receive(self, key: str, seconds: float) -> Any:
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            raise WorkerError(
                f"{self._job.name}: no answer from the measuring process within {seconds:.0f} s; it was ended. "
                "Try a smaller model or batch, or fewer threads"
            ) from None
        if line == _END:
            raise self._died()
        try:
            answer = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkerError(f"{self._job.name}: the measuring process answered {line[:200]!r}, not JSON") from error
        match answer:
            case {"error": {"kind": str(kind), "message": str(message)}}:
                raise _KINDS.get(kind, WorkerError)(f"{self._job.name}: {message}")
            case dict() if key in answer:
                return answer[key]
            case _:
                raise WorkerError(f"{self._job.name}: the measuring process answered {line[:200]!r} instead of {key}")

    def _died(self) -> WorkerError:
        # The reader has seen the end of its output, or its input is gone: it is ending or has closed its pipes.
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return WorkerError(f"{self._job.name}: the measuring process closed its connection")
        self._last_words.seek(0)
        words = self._last_words.read().decode(errors="replace")[-_LAST_WORDS:].strip()
        said = f"; its last words:\n{words}" if words else "; it said nothing"
        hint = " (often: out of memory)" if code == -signal.SIGKILL.value else ""
        return WorkerError(f"{self._job.name}: the measuring process ended {_ending(code)}{hint}{said}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    known = {entry.value: entry.name for entry in signal.Signals}
    return f"by signal {known.get(-code, str(-code))}"
