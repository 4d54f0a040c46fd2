from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from fewbits.errors import StorageError
from fewbits.flow.scratch import scratch_file, scratch_folder
from fewbits.models.protocol import Artifact


def test_the_folder_is_gone_afterwards_with_what_is_in_it() -> None:
    with scratch_folder() as folder:
        assert scratch_file(folder / "a.onnx", Artifact(b"content")).read_bytes() == b"content"
    assert not folder.exists()


def test_it_is_gone_after_an_error_too() -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder() as folder:
        raise KeyboardInterrupt
    assert not folder.exists()


def test_no_place_for_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match=r"temporary folder.*TMPDIR"), scratch_folder():
        pass


def test_no_place_for_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        StorageError, match=r"write 1,234 bytes to the temporary file .*No space left on device.*TMPDIR"
    ):
        scratch_file(tmp_path / "a.onnx", Artifact(b"x" * 1234))
