"""The folder of a topic's scores: merged whatever dies, bounded, and readable at every moment."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepflow.config.score import KafkaConfig
from hepflow.data.ledger import Ledger, Lost
from hepflow.data.task_records import RECORDS
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.score.folder import CHECKPOINT
from hepflow.score.kafka import folder as module
from hepflow.score.kafka.deleted import n_messages
from hepflow.score.kafka.folder import NAMED, TopicFolder, name_of
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import RECENT, read_scores
from hepflow.system.files import read_json
from hepflow.system.publishing import whole

ABOUT = {"key": "k"}
NEVER = KafkaConfig(roll_s=1e9)
AT_ONCE = KafkaConfig(roll_s=1e-9)
PER_BATCH = 3


def write_batch(path: Path, number: int, lost: tuple[Lost, ...] = (), old: bool = False) -> Any:
    """What Spark and the sink leave of a micro-batch; ``old``: as before files were merged."""
    for part in ("offsets", "commits"):
        (path / CHECKPOINT / part).mkdir(parents=True, exist_ok=True)
        (path / CHECKPOINT / part / str(number)).write_text("v1\n{}")
    name, ids = name_of(number), range(number * PER_BATCH, (number + 1) * PER_BATCH)
    fragment = f"{name}.parquet" if old else f"{RECENT}/{name}.parquet"
    table = pa.table({"event_id": pa.array(ids, pa.int64())})
    (path / fragment).parent.mkdir(exist_ok=True)
    with whole(path / fragment) as part:
        pq.write_table(table, part)
    n_lost = sum(item.events or 0 for item in lost)
    ledger = Ledger(PER_BATCH + n_lost, PER_BATCH, {}, lost).check()
    messages = {f"hash {number}": f"t[0]@{number}"}
    (path / RECORDS).mkdir(exist_ok=True)
    record = ScoreRecord(name, ledger, messages=messages, fragment=fragment)
    return replace(record, accepted={"any": 1}).write(path)


class Death(BaseException):
    """Of the process."""


@contextmanager
def dying(at: int) -> Iterator[None]:
    """From the given change of the file system on, none happens."""
    changes = iter(range(1 << 30))

    def dies(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            if next(changes) >= at:
                raise Death
            return change(*arguments, **options)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "link", "unlink"):
            patch.setattr(os, name, dies(getattr(os, name)))
        yield


def ids_in(path: Path) -> list[int]:
    return sorted(read_scores(path, ["event_id"])["event_id"].to_pylist())


def test_micro_batches_become_one_file_and_one_record(tmp_path: Path) -> None:
    folder = TopicFolder(tmp_path, ABOUT, NEVER)
    for number in range(5):
        folder.add(write_batch(tmp_path, number))
    folder.merge({})
    assert len(list((tmp_path / RECENT).glob("*.parquet"))) == 5, "too early"
    folder.merge({"hash 4": "t[0]@4"}, at_end=True)
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["batch-00000000-00000004.parquet"]
    assert [path.name for path in (tmp_path / RECENT).iterdir()] == ["messages.json"]
    (record,) = (tmp_path / RECORDS).iterdir()
    assert read_json(record)["accepted"] == {"any": 5}
    assert ids_in(tmp_path) == list(range(15))
    again = TopicFolder(tmp_path, ABOUT, NEVER)
    assert (again.last, again.ledger, again.accepted) == (4, folder.ledger, {"any": 5})
    assert again.messages == {"hash 4": "t[0]@4"}
    assert again.n_files == 5


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (AT_ONCE, 6),
        (KafkaConfig(roll_s=1e9, remembered=2), 3),
        (KafkaConfig(roll_s=1e9, remembered=4), 1),
        (KafkaConfig(roll_s=1e9), 0),
    ],
)
def test_files_are_merged_by_age_and_by_size(
    tmp_path: Path, config: KafkaConfig, files: int
) -> None:
    folder = TopicFolder(tmp_path, ABOUT, config)
    for number in range(6):
        folder.add(write_batch(tmp_path, number))
        folder.merge(folder.messages)
    assert len(list(tmp_path.glob("*.parquet"))) == files
    assert ids_in(tmp_path) == list(range(18))


def test_bytes_are_a_reason_to_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = TopicFolder(tmp_path, ABOUT, KafkaConfig(roll_s=1e9, roll_mb=1))
    for number in range(4):
        record = write_batch(tmp_path, number)
        with (tmp_path / record.fragment).open("r+b") as file:
            content = file.read()
            file.seek(0)
            file.write(b"PAR1" + bytes(1 << 19))  # Parquet is read from its end
            file.write(content[4:])
        monkeypatch.setattr(module, "_concatenate", lambda files, target: target.touch())
        folder.add(record)
        folder.merge({})
        assert len(list(tmp_path.glob("*.parquet"))) == (number + 1) // 2


def test_a_crash_at_every_step_of_merging_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Readers see each score once at each of these moments, and the next run goes on."""
    (made := tmp_path / "made").mkdir()
    TopicFolder(made, ABOUT, NEVER)
    for number in range(4):
        write_batch(made, number)
    steps = 0
    while True:
        path = tmp_path / str(steps)
        shutil.copytree(made, path)
        folder = TopicFolder(path, ABOUT, NEVER)
        try:
            with dying(steps):
                folder.merge(folder.messages, at_end=True)
        except Death:
            assert ids_in(path) == list(range(12))
            again = TopicFolder(path, ABOUT, NEVER)
            assert (again.last, again.ledger.n_out) == (3, 12)
            assert ids_in(path) == list(range(12))
            assert len(again.messages) == 4
            again.add(write_batch(path, 4))
            again.merge(again.messages, at_end=True)
            assert ids_in(path) == list(range(15))
            assert not list(path.rglob("*.part"))
            assert len(list(path.rglob("*.parquet"))) == len(list((path / RECORDS).iterdir()))
            steps += 1
            continue
        break
    assert steps >= 3 + 2 * 4, "the file, hashes, the record, and 4 of each removed"


def test_scores_can_be_read_while_they_are_merged(tmp_path: Path) -> None:
    folder = TopicFolder(tmp_path, ABOUT, AT_ONCE)
    written, done = [0], threading.Event()

    def read() -> Iterator[str]:
        while not done.is_set():
            least = written[0]
            ids = ids_in(tmp_path) if least else []
            if ids != list(range(len(ids))) or len(ids) < least * PER_BATCH:
                yield f"{len(ids)} scores of {least} micro-batches"

    wrong: list[str] = []
    reader = threading.Thread(target=lambda: wrong.extend(read()))
    reader.start()
    try:
        for number in range(150):
            folder.add(write_batch(tmp_path, number))
            written[0] = number + 1
            if number % 5 == 4:
                folder.merge({})
    finally:
        done.set()
        reader.join()
    assert not wrong


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    for number in range(7):
        write_batch(tmp_path, number, old=True)
    (tmp_path / "_hepflow.json").write_text(json.dumps(ABOUT))
    assert ids_in(tmp_path) == list(range(21))
    folder = TopicFolder(tmp_path, ABOUT, KafkaConfig(roll_s=1e9, remembered=3))
    assert (folder.last, folder.ledger.n_out) == (6, 21)
    assert list(folder.messages) == ["hash 4", "hash 5", "hash 6"]
    assert len(list(tmp_path.glob("*.parquet"))) == 2, "merged three at a time"
    assert ids_in(tmp_path) == list(range(21))
    folder.add(write_batch(tmp_path, 7))
    folder.merge({}, at_end=True)
    assert ids_in(tmp_path) == list(range(24))


def test_lost_messages_are_named_up_to_a_number_and_then_counted(tmp_path: Path) -> None:
    """Counts stay exact; every one stays in a record."""
    folder = TopicFolder(tmp_path, ABOUT, NEVER)
    n = 3 * NAMED
    for number in range(n):
        kinds = (
            Lost(f"t[0]@{number}", f"{number:,} bytes, 10 allowed"),
            Lost(f"t[0]@{number}-{number + 4}", "5 messages deleted before being read"),
            Lost(f"t[0]@{number}", NOT_FINITE, 2),
        )
        folder.add(write_batch(tmp_path, number, (kinds[number % 3],)))
    ledger = folder.ledger.check()
    assert NAMED < len(ledger.lost) <= 2 * NAMED
    assert folder.n_quarantined == n // 3 * (1 + 5 + 1)
    assert ledger.n_lost == 2 * n // 3
    sums = [item for item in ledger.lost if "earlier" in item.file]
    assert len(sums) == 3
    assert all("N" in item.reason or item.reason == NOT_FINITE for item in sums)
    folder.merge({}, at_end=True)
    folder.write(complete=True)
    (record,) = (tmp_path / RECORDS).iterdir()
    assert len(read_json(record)["lost"]) == n
    again = TopicFolder(tmp_path, ABOUT, NEVER)
    assert again.n_quarantined == folder.n_quarantined
    assert again.ledger.n_lost == ledger.n_lost
    assert len(again.ledger.lost) <= 2 * NAMED


def test_reasons_of_a_user_s_physics_are_bounded(tmp_path: Path) -> None:
    lost = [Lost(f"t[0]@{i}", f"scoring it fails ({'x' * i})") for i in range(500)]
    lost += [Lost("t[0]@9", NOT_FINITE, 4), Lost("t[0]@10", "other", 1)]
    sums = module._summed(lost)
    assert len(sums) <= module._REASONS + 3
    assert sum(n_messages(item.file) for item in sums) >= 502
    assert [item.events for item in sums if item.reason == NOT_FINITE] == [4]
    assert sum(item.events or 0 for item in sums) == 5
    assert module._summed(sums) == sums, "sums of sums are the same"


@pytest.mark.parametrize("what", ["scores", "checkpoint", "offsets", "merged"])
def test_what_was_deleted_by_hand_ends_the_run(tmp_path: Path, what: str) -> None:
    folder = TopicFolder(tmp_path, ABOUT, NEVER)
    for number in range(3):
        folder.add(write_batch(tmp_path, number))
    if what == "merged":
        folder.merge({}, at_end=True)
        (tmp_path / "batch-00000000-00000002.parquet").unlink()
        match = r"scores \(3 micro-batches\) deleted"
    elif what == "scores":
        (tmp_path / RECENT / "batch-00000001.parquet").unlink()
        match = r"scores \(1 micro-batches\) deleted"
    else:
        shutil.rmtree(tmp_path / CHECKPOINT / ("" if what == "checkpoint" else "offsets"))
        match = "Spark's _checkpoint deleted"
    with pytest.raises(DataError, match=match):
        TopicFolder(tmp_path, ABOUT, NEVER)
