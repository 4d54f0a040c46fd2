"""What a compiled library prints is dropped, and standard output is as it was afterwards."""

from __future__ import annotations

import os
from threading import Barrier, Thread

import pytest

from fewbits.search.quiet import silenced


def test_what_is_written_inside_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(1, b"before ")
    with silenced():
        os.write(1, b"inside ")
    os.write(1, b"after")
    assert capfd.readouterr().out == "before after"


def test_an_error_inside_gives_the_output_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="inside"), silenced():
        raise ValueError("inside")
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"


def test_threads_do_not_take_each_others_redirection_for_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    together = Barrier(4)

    def work() -> None:
        together.wait()
        for _ in range(200):
            with silenced():
                os.write(1, b"inside ")

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"
