"""Measured costs are found again, by many processes at once, and no file on earth ends a run."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewbits.costs.cache import CostCache
from fewbits.costs.database import SCHEMA_VERSION
from fewbits.costs.key import RegionCost, RegionKey
from fewbits.costs.sharing import Sharing
from fewbits.errors import UsageError

KEY = RegionKey(
    op="conv",
    signature="x=1x64x56x56 w=64x64x3x3 strides=1x1",
    scheme="w:int8r/channel a:uint8/tensor",
    neighbours="relu",
    target="onnxruntime:cpu",
    target_version="1.20.1",
    cpu="Xeon of the test",
    features="avx2 avx512_vnni",
    threads=2,
)
COST = RegionCost(1e-6, 2.5e-4, 3e-6, "QLinearConv", "int8", "", "2025-02-03")
SHORT = 0.2


def keys(count: int) -> list[RegionKey]:
    return [replace(KEY, signature=f"shape {number}") for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "costs.sqlite"


def stored(path: Path) -> Mapping[RegionKey, RegionCost]:
    """What another process would find, by plain SQL."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT * FROM costs").fetchall()
    return {RegionKey(*row[:9]): RegionCost(*row[9:]) for row in rows}


# --- what is put is found --------------------------------------------------------------------


def test_what_one_run_puts_the_next_one_finds(path: Path) -> None:
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
    with CostCache.open(path) as cache:
        assert cache.get_many([KEY]) == {KEY: COST}
        assert cache.remarks == ()
        assert not cache.in_memory


@pytest.mark.parametrize("field", RegionKey.__dataclass_fields__)
def test_every_field_of_a_key_counts(path: Path, field: str) -> None:
    other = replace(KEY, **{field: 3 if field == "threads" else "another"})
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
        assert cache.get_many([other]) == {}


def test_unknown_keys_are_absent_and_known_ones_all_there(path: Path) -> None:
    known = {key: replace(COST, compute=float(number)) for number, key in enumerate(keys(50))}
    with CostCache.open(path) as cache:
        cache.put_many(known)
        assert cache.get_many([*known, KEY]) == known


def test_the_last_cost_of_a_key_counts(path: Path) -> None:
    refused = RegionCost(0.0, 0.0, 0.0, "", "", "NOT_IMPLEMENTED: no kernel", "2025-02-04")
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
        cache.put(KEY, refused)
        assert cache.get_many([KEY]) == {KEY: refused}
        assert len(cache.rows()) == 1


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
seconds = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.builds(RegionKey, *[texts] * 8, st.integers(1, 1 << 40)),
    cost=st.builds(RegionCost, *[seconds] * 3, *[texts] * 4),
)
def test_texts_and_seconds_round_trip_exactly(tmp_path: Path, key: RegionKey, cost: RegionCost) -> None:
    with CostCache.open(tmp_path / "costs.sqlite") as cache:
        cache.put(key, cost)
    with CostCache.open(tmp_path / "costs.sqlite") as cache:
        assert cache.get_many([key]) == {key: cost}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["entry", "compute", "exit"])
def test_seconds_are_finite(field: str, bad: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        replace(COST, **{field: bad})


# --- list and clear --------------------------------------------------------------------------


@pytest.fixture
def filled(path: Path) -> Iterator[CostCache]:
    with CostCache.open(path) as cache:
        for target in ("onnxruntime:cpu", "onnxruntime:cuda", "openvino:cpu"):
            for scheme in ("w:int8r/channel a:uint8/tensor", "w:bf16 a:bf16"):
                cache.put(replace(KEY, target=target, scheme=scheme), COST)
        yield cache


@pytest.mark.parametrize(
    ("target", "scheme", "count"),
    [
        ("", "", 6),
        ("onnxruntime:cpu", "", 2),
        ("onnxruntime*", "", 4),
        ("", "w:int8*", 3),
        ("*:cpu", "w:bf16 a:bf16", 2),
        ("onnxruntime", "", 0),
    ],
)
def test_rows_are_filtered(filled: CostCache, target: str, scheme: str, count: int) -> None:
    assert len(filled.rows(target=target, scheme=scheme)) == count


def test_rows_come_in_one_order(filled: CostCache) -> None:
    rows = filled.rows()
    assert list(rows) == sorted(rows, key=lambda row: (row.key.target, row.key.scheme))


def test_clear_forgets_a_target_in_the_file_too(filled: CostCache, path: Path) -> None:
    assert filled.clear(target="onnxruntime:*") == 4
    assert {key.target for key in stored(path)} == {"openvino:cpu"}


def test_clear_everything(filled: CostCache, path: Path) -> None:
    assert filled.clear(everything=True) == 6
    assert filled.clear(everything=True) == 0
    assert stored(path) == {}


def test_clear_gives_the_space_back(path: Path) -> None:
    with CostCache.open(path) as cache:
        cache.put_many(dict.fromkeys(keys(3000), COST))
        full = path.stat().st_size
        cache.clear(everything=True)
        assert path.stat().st_size < full / 10


@pytest.mark.parametrize("arguments", [{}, {"target": "x", "everything": True}])
def test_clear_wants_to_know_what(filled: CostCache, arguments: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="one of the two"):
        filled.clear(**arguments)
    assert len(filled.rows()) == 6


# --- several processes -----------------------------------------------------------------------

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from fewbits.costs.cache import CostCache
from tests_key import KEY, COST

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
with CostCache.open(path, wait=60) as cache:
    for number in range(count):
        key = replace(KEY, signature=f"{name} {number}")
        cache.put(key, COST)
        assert cache.get_many([key]) == {key: COST}
    print(*cache.remarks)
"""


def together(tmp_path: Path, path: Path, names: list[str], count: int) -> list[str]:
    """The remarks of one process per name; each puts `count` rows, all begin at once."""
    (tmp_path / "tests_key.py").write_text(
        f"from fewbits.costs.key import RegionCost, RegionKey\nKEY = {KEY!r}\nCOST = {COST!r}\n"
    )
    (tmp_path / "writer.py").write_text(WRITER)
    begun = [
        subprocess.Popen(
            [sys.executable, tmp_path / "writer.py", path, name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for process in begun:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate() for process in begun]
    assert [(process.returncode, said[1]) for process, said in zip(begun, ended, strict=True)] == [(0, "")] * len(names)
    return [said[0].strip() for said in ended]


def test_two_processes_at_once_both_keep_all_their_rows(tmp_path: Path, path: Path) -> None:
    assert together(tmp_path, path, ["one", "two"], 60) == ["", ""]
    assert stored(path) == {
        replace(KEY, signature=f"{name} {number}"): COST for name in ("one", "two") for number in range(60)
    }


def test_two_processes_that_find_a_damaged_file_put_it_aside_once(tmp_path: Path, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 100)
    said = together(tmp_path, path, ["one", "two"], 20)
    assert sum("Begun anew" in remark for remark in said) == 1
    assert sorted(path.parent.glob("*.damaged")) == [path.with_name("costs.sqlite.damaged")]
    assert len(stored(path)) == 40


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else holds `path` and does not let go."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def test_a_file_that_stays_locked_at_the_start_is_done_without(path: Path) -> None:
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
    with locked(path), CostCache.open(path, wait=SHORT) as cache:
        assert cache.in_memory
        assert "locked" in cache.remarks[0] and str(path) in cache.remarks[0]
        cache.put(KEY, COST)
        assert cache.get_many([KEY]) == {KEY: COST}
    assert stored(path) == {KEY: COST}


def test_a_file_that_becomes_locked_is_done_without_and_nothing_is_lost_for_this_run(path: Path) -> None:
    first, second, third = keys(3)
    with CostCache.open(path, wait=SHORT) as cache:
        cache.put(first, COST)
        with locked(path):
            cache.put(second, COST)
        cache.put(third, COST)
        assert set(cache.get_many([first, second, third])) == {first, second, third}
        assert len(cache.rows()) == 3
        assert len(cache.remarks) == 1
        assert cache.clear(everything=True) == 3
    assert set(stored(path)) == {first}


def test_a_file_that_is_locked_for_a_moment_is_waited_for(tmp_path: Path, path: Path) -> None:
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
    hold = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE')"
    script = f"{hold}; print('held', flush=True); sys.stdin.readline(); import time; time.sleep(0.3); c.close()"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        with CostCache.open(path, wait=60) as cache:
            assert cache.get_many([KEY]) == {KEY: COST}
            assert cache.remarks == ()


# --- files that are not what they should be --------------------------------------------------


def damaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def test_a_file_that_is_no_database_is_kept_beside_a_new_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 5000)
    with CostCache.open(path) as cache:
        assert "damaged" in cache.remarks[0] and "costs.sqlite.damaged" in cache.remarks[0]
        assert not cache.in_memory
        cache.put(KEY, COST)
    assert damaged(path).read_bytes() == b"\xff" * 5000
    assert stored(path) == {KEY: COST}


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
        assert cache.remarks == ()
    assert stored(path) == {KEY: COST}


def test_another_version_is_kept_beside_a_new_one(path: Path) -> None:
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with CostCache.open(path) as cache:
        assert cache.rows() == ()
        assert f"version {SCHEMA_VERSION + 1}" in cache.remarks[0]
    assert stored(damaged(path)) == {KEY: COST}


def test_the_database_of_another_program_is_left_whole(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE costs (euros)")
    before = path.read_bytes()
    with CostCache.open(path) as cache:
        assert "another program" in cache.remarks[0]
    assert damaged(path).read_bytes() == before


def test_our_mark_on_other_tables_is_damage(path: Path) -> None:
    with CostCache.open(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE costs RENAME COLUMN entry TO enter")
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
        assert cache.get_many([KEY]) == {KEY: COST}


def test_damage_that_shows_late_does_not_lose_what_this_run_measured(path: Path) -> None:
    with CostCache.open(path) as cache:
        cache.put_many(dict.fromkeys(keys(500), COST))
    with CostCache.open(path) as cache:
        cache.put(KEY, COST)
        content = bytearray(path.read_bytes())
        # All but the first page, which says what the tables are.
        content[4096:] = b"\xa5" * (len(content) - 4096)
        path.write_bytes(content)
        # Another connection's change makes SQLite read the pages again.
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA user_version")
        with path.open("r+b") as file:
            file.seek(24)
            file.write(b"\x7f\x00\x00\x01")
        assert len(cache.get_many(keys(500))) == 0
        assert cache.get_many([KEY]) == {KEY: COST}
        assert "damaged" in cache.remarks[0]
    assert stored(path) == {KEY: COST}
    assert damaged(path).exists()


def test_a_damaged_file_that_another_process_has_open_is_not_renamed(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 5000)
    with closing(Sharing(path.with_name("costs.sqlite.lock"))) as other:
        assert other.shared()
        with CostCache.open(path, wait=SHORT) as cache:
            assert cache.in_memory
            assert "other processes have it open" in cache.remarks[0]
    assert path.read_bytes() == b"\xff" * 5000
    assert not damaged(path).exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with a few pages."""
    path = tmp_path_factory.mktemp("whole") / "costs.sqlite"
    with CostCache.open(path) as cache:
        cache.put_many(dict.fromkeys(keys(100), COST))
    return path.read_bytes()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_whatever_end_a_run(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    content = bytearray(whole[: data.draw(st.sampled_from([len(whole), 50, 4096, 5000, len(whole) // 2]))])
    for _ in range(data.draw(st.integers(0, 8))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content), 300) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "costs.sqlite"
    path.write_bytes(content)
    with CostCache.open(path, wait=SHORT) as cache:
        known = cache.get_many(keys(100))
        assert set(known) <= set(keys(100))
        cache.rows()
        cache.put(KEY, COST)
        assert cache.get_many([KEY]) == {KEY: COST}
        cache.clear(target="none such")


# --- places that are none --------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file/costs.sqlite", "file/deeper/costs.sqlite", "folder"])
def test_where_no_file_can_be_costs_are_kept_in_memory(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    (tmp_path / "folder").mkdir()
    with CostCache.open(tmp_path / place) as cache:
        assert cache.in_memory
        assert "for this run only" in cache.remarks[0]
        cache.put(KEY, COST)
        assert cache.get_many([KEY]) == {KEY: COST}
        assert [row.key for row in cache.rows()] == [KEY]
