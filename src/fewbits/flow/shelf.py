"""Where a run keeps codes of weights, so that they need not be found again when it goes on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fewbits.codes import Codes, read_codes
from fewbits.flow.scratch import scratch_folder
from fewbits.formats.files import save_tensors
from fewbits.store import Run, RunFile


class Shelf:
    """Codes by name, in the directory of `run` if it has one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._codes: Codes = {}

    def read(self) -> Codes:
        """What was written last, by an earlier attempt too. Raises PlanError if the file is damaged."""
        path = None if self._run.path is None else self._run.path / RunFile.CODES
        if not self._codes and path is not None and path.is_file():
            self._codes = read_codes(path)
        return self._codes

    def write(self, codes: Codes) -> None:
        """Keep `codes` instead of what was there. Raises StorageError."""
        self._codes = codes
        if self._run.path is None or not codes:
            return
        with scratch_folder() as folder:
            path = Path(folder) / RunFile.CODES
            save_tensors(path, codes)
            self._run.write(RunFile.CODES, path.read_bytes())

    def keep(self, names: Collection[str]) -> None:
        """Give away all codes but those called `names`. Raises StorageError."""
        kept = {name: codes for name, codes in self.read().items() if name in names}
        if len(kept) == len(self._codes):
            return
        self.write(kept)
        if not kept:
            self._run.remove(RunFile.CODES)
