"""The folder of scores: few files, each event once whatever dies, changes or is copied."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import ScoreConfig
from hepflow.data.task_records import RECORDS, merge_records
from hepflow.engines.dask import SETTINGS
from hepflow.errors import DataError
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.score import folder as module
from hepflow.score.claims import CLAIMS
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import MOST_TASKS, OPENING, ranges_of, tasks_of
from hepflow.score.job import run
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import read_scores, scan_scores
from hepflow.score.task import Task, prepare, score_task
from hepflow.system.files import read_json, write_json
from hepflow_bench.copies import copy_as_new
from tests.support.faults import dies
from tests.support.toy_trigger import all_ids, rewritten, scored_ids, write_raw

pytestmark = pytest.mark.slow

N_EVENTS = 6
WHOLE = 1 << 30


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ROOT file of a few events."""
    return write_raw(tmp_path_factory.mktemp("small") / "a.root", [N_EVENTS], seed=3)


class Scoring:
    """Scores an input as `hepflow score` does, in this process and in tasks of a chosen size."""

    def __init__(self, raw: Path, model: Path, output: Path) -> None:
        self.raw = raw
        _, self.task, self.about = prepare(ScoreConfig(input=raw, model=model, output=output))

    def begin(self, output: Path | None = None, **more: bool) -> ScoreFolder:
        where = output or self.task.output
        folder = ScoreFolder(where, self.about, **more)
        self.task = replace(self.task, output=where, run=folder.run)
        return folder

    def score(self, folder: ScoreFolder, per_task: int = 3) -> None:
        pending = folder.pending(ranges_of(self.raw, self.task.access, WHOLE))
        for start in range(0, len(pending), per_task):
            folder.add(score_task(pending[start : start + per_task], self.task))

    def run(self, output: Path | None = None, per_task: int = 3, **more: bool) -> ScoreFolder:
        folder = self.begin(output, **more)
        self.score(folder, per_task)
        folder.finish(complete=True)
        return folder


@pytest.fixture
def scoring(tmp_path: Path, model: Path, small: Path) -> Scoring:
    """Return an input of seven files that are not scored yet."""
    for number, name in enumerate("abcdefg"):
        copy_as_new(small, tmp_path / "raw" / f"{name}.root", number)
    return Scoring(tmp_path / "raw", model, tmp_path / "scores")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def ids_of(paths: Iterable[Path]) -> list[int]:
    found: list[int] = []
    for path in paths:
        found += pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    return sorted(found)


def test_many_small_files_become_few_files(scoring: Scoring) -> None:
    folder = scoring.run()
    found = names(folder.path)
    assert len([name for name in found if name.endswith(".parquet")]) == 3
    assert [name for name in found if not name.endswith(".parquet")] == [
        "_claims",
        "_hepflow.json",
        "_lost.json",
        "_records",
        "_records/finished.jsonl",
    ]
    assert (folder.n_files, folder.ledger.n_in) == (7, 7 * N_EVENTS)
    assert scored_ids(folder.path) == ids_of(folder.path.glob("*.parquet")) == all_ids(scoring.raw)
    again = scoring.run()
    assert names(folder.path) == found
    assert (again.n_files, again.ledger) == (7, folder.ledger)


def source(number: int, size: int) -> EntryRange:
    return EntryRange(SourceFile("", f"{number:07d}.root", "/a", size, "1"))


@pytest.mark.parametrize(("n", "size"), [(20_000, 10_000), (20_000, 500_000_000), (3, 10)])
def test_a_large_input_has_a_bounded_number_of_tasks_and_each_a_bounded_number_of_files(
    n: int, size: int
) -> None:
    ranges = [source(i, size) for i in range(n)]
    tasks = tasks_of(ranges, 128 << 20)
    assert sorted(one for task in tasks for one in task) == ranges
    assert len(tasks) <= MOST_TASKS
    most = max(128 << 20, n * (size + OPENING) // MOST_TASKS)
    assert max(sum(one.size + OPENING for one in task) for task in tasks) <= most
    assert max(map(len, tasks)) <= 128


@pytest.mark.parametrize("most", [0, 4000])
def test_a_changed_file_costs_its_own_rows_alone(
    scoring: Scoring, small: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Also those of files that are no longer in the input, but in its task, are kept."""
    monkeypatch.setattr(module, "MOST_SINGLES", most)
    scoring.run()
    output, raw = scoring.task.output, scoring.raw
    kept = all_ids(raw)
    (raw / "c.root").unlink()
    changed = copy_as_new(small, raw / "b.root", 100)
    gone = set(kept) - set(scored_after(scoring)) - set(all_ids(raw))
    assert len(gone) == N_EVENTS, "those of the earlier b.root"
    assert set(all_ids(changed.parent)) <= set(scored_ids(output))
    assert len(scored_ids(output)) == 7 * N_EVENTS
    assert names(output / RECORDS) == ["finished.jsonl"]


def scored_after(scoring: Scoring) -> list[int]:
    folder = scoring.run()
    assert folder.ledger.n_in == len(scored_ids(folder.path))
    return scored_ids(folder.path)


@pytest.mark.parametrize("most", [0, 4000])
def test_a_crash_at_every_step_of_a_change_loses_and_doubles_nothing(
    scoring: Scoring,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """A file has changed, one is gone, one is new; readers see each event once at all times."""
    monkeypatch.setattr(module, "MOST_SINGLES", most)
    made, raw = scoring.run().path, scoring.raw
    before = set(scored_ids(made))
    copy_as_new(small, raw / "b.root", 100)
    (raw / "c.root").unlink()
    copy_as_new(small, raw / "h.root", 101)
    expected = scored_ids(scoring.run(shutil.copytree(made, tmp_path / "calm")).path)
    assert len(expected) == 8 * N_EVENTS
    stay = before & set(expected)
    for k in count():
        output = shutil.copytree(made, tmp_path / str(k))
        if not dies(scoring.run, output, k):
            break
        found = ids_of(output.glob("*.parquet"))
        assert len(found) == len(set(found)), f"an event twice after a death at change {k}"
        assert stay <= set(found), f"scores lost after a death at change {k}"
        scoring.run(output)
        assert scored_ids(output) == expected, f"after a death at change {k}"
        assert len(names(output)) == len(names(tmp_path / "calm"))
        shutil.rmtree(output)
    assert k > 20


@pytest.mark.parametrize("most", [0, 4000])
def test_of_a_file_and_its_copies_one_is_scored(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """In the same task, in another one, and in a later run."""
    monkeypatch.setattr(module, "MOST_SINGLES", most)
    raw = scoring.raw
    shutil.copy(raw / "a.root", raw / "b.root")
    shutil.copy(raw / "a.root", raw / "f.root")
    folder = scoring.run()
    assert {item.file for item in folder.ledger.lost} == {"b.root", "f.root"}
    shutil.copy(raw / "a.root", raw / "z.root")
    folder = scoring.run()
    reasons = {item.file: item.reason for item in folder.ledger.lost}
    assert reasons.keys() == {"b.root", "f.root", "z.root"}
    assert set(reasons.values()) == {"a copy of a.root (same identity)"}
    assert scored_ids(folder.path) == sorted(set(all_ids(raw)))


@pytest.mark.parametrize("most", [0, 4000])
def test_another_file_may_have_the_events_of_one_that_has_changed(
    scoring: Scoring, small: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(module, "MOST_SINGLES", most)
    folder = scoring.begin()
    scoring.score(folder)
    moved = scoring.raw / "a.root"
    moved.rename(scoring.raw / "z.root")
    copy_as_new(small, moved, 100)
    scoring.score(folder)
    folder.finish(complete=True)
    assert not folder.ledger.lost
    assert scored_ids(folder.path) == all_ids(scoring.raw)


def test_every_range_of_a_file_is_scored_after_its_claim_was_merged(
    scoring: Scoring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of a file claims its events first, of which another range is merged."""
    monkeypatch.setattr(module, "MOST_SINGLES", 0)
    shutil.rmtree(scoring.raw)
    path = write_raw(scoring.raw / "a.root", [40, 30], seed=2)
    shutil.copy(path, path.with_name("b.root"))
    ranges = ranges_of(scoring.raw, scoring.task.access, path.stat().st_size // 2 + 1)
    folder = scoring.begin()
    for i in (0, 2, 3, 1):  # a 1/2, both of b, a 2/2
        folder.add(score_task([ranges[i]], scoring.task))
    assert {item.file for item in folder.ledger.lost} == {"b.root"}
    assert scored_ids(folder.path) == sorted(set(all_ids(scoring.raw)))


def test_a_worker_that_outlives_its_run_writes_nothing(scoring: Scoring) -> None:
    scoring.begin()
    earlier: Task = scoring.task
    folder = scoring.begin()
    ranges = ranges_of(scoring.raw, earlier.access, WHOLE)
    with pytest.raises(DataError, match="another run has begun"):
        score_task(ranges, earlier)
    assert not [*folder.path.glob("*.parquet"), *(folder.path / RECORDS).iterdir()]
    folder.add(score_task(ranges, scoring.task))
    assert scored_ids(folder.path) == all_ids(scoring.raw)


def test_a_run_has_few_records_and_claims_at_a_time(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SINGLES", 2)
    folder, most = scoring.begin(), 0
    for one in ranges_of(scoring.raw, scoring.task.access, WHOLE):
        folder.add(score_task([one], scoring.task))
        singles = len(list((folder.path / RECORDS).glob("*.json")))
        claims = [path for path in (folder.path / CLAIMS).iterdir() if not path.suffix]
        most = max(most, singles, len(claims))
    assert most == 2
    again = scoring.begin()
    assert (again.ledger, again.n_files) == (folder.ledger, 7)
    assert not again.pending(ranges_of(scoring.raw, scoring.task.access, WHOLE))


def test_quarantined_files_of_a_task_are_retried_alone(
    scoring: Scoring, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (scoring.raw / "b.root").read_bytes()
    (scoring.raw / "b.root").write_bytes(b"no ROOT file")
    os.utime(scoring.raw / "b.root", (1e9, 1e9))
    folder = scoring.run()
    assert [item.file for item in folder.ledger.lost] == ["b.root"]
    before = {path: path.stat().st_mtime_ns for path in folder.path.glob("*.parquet")}
    (scoring.raw / "b.root").write_bytes(whole)
    folder = scoring.run(retry_lost=True)
    assert not folder.ledger.lost
    assert scored_ids(folder.path) == all_ids(scoring.raw)
    assert len(list(folder.path.glob("*.parquet"))) == len(before) + 1


def test_scores_of_version_2_are_continued(scoring: Scoring, small: Path) -> None:
    """There, each entry range had a file and a record, and each file a claim that stayed."""
    folder = scoring.run(per_task=1)
    merged = folder.path / RECORDS / "finished.jsonl"
    for line in merged.read_text().splitlines():
        record = ScoreRecord.from_dict(json.loads(line))
        (one,) = record.ranges
        old = {"key": record.key, "name": one.range.file.name, "uuid": one.uuid, "messages": {}}
        old |= {"fragment": record.fragment, "transient": False, "accepted": {}, "seconds": 0.1}
        old |= {"split": asdict(one.range), "histograms": [], **record.ledger.to_dict()}
        write_json(folder.path / RECORDS / f"{record.key}.json", old)
        (folder.path / CLAIMS / str(one.uuid)).write_text(one.range.file.name)
        table = pq.read_table(folder.path / str(record.fragment))
        about = json.dumps(scoring.task.about)
        pq.write_table(
            table.replace_schema_metadata({"hepflow": about}), folder.path / str(record.fragment)
        )
    merged.unlink()
    before = {path: path.read_bytes() for path in folder.path.glob("*.parquet")}
    again = scoring.run()
    assert {path: path.read_bytes() for path in folder.path.glob("*.parquet")} == before
    assert again.ledger == folder.ledger
    assert names(folder.path / RECORDS) == ["finished.jsonl"]
    copy_as_new(small, scoring.raw / "b.root", 100)
    shutil.copy(scoring.raw / "a.root", scoring.raw / "z.root")
    again = scoring.run()
    assert [item.file for item in again.ledger.lost] == ["z.root"]
    assert scored_ids(folder.path) == sorted(set(all_ids(scoring.raw)))


def test_a_record_of_ranges_that_others_have_counts_once(scoring: Scoring) -> None:
    """Two runs may have written them, if one was killed and its worker went on for an instant."""
    folder = scoring.begin()
    ranges = ranges_of(scoring.raw, scoring.task.access, WHOLE)
    score_task(ranges[:3], scoring.task)
    score_task(ranges[1:5], scoring.task)
    folder = scoring.begin()
    assert len(scored_ids(folder.path)) == folder.ledger.n_in == 5 * N_EVENTS
    scoring.score(folder)
    assert scored_ids(folder.path) == all_ids(scoring.raw)


@contextmanager
def limited(what: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_scores_are_read_with_few_open_files(scoring: Scoring) -> None:
    folder = scoring.run(per_task=7)
    (one,) = folder.path.glob("*.parquet")
    for number in range(300):
        shutil.copy(one, one.with_name(f"{number}.parquet"))
    one.unlink()
    write_json(folder.path / "_hepflow.json", {})
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    with limited(resource.RLIMIT_NOFILE, open_now + 60):
        assert len(read_scores(folder.path, ["event_id"])) == 300 * 7 * N_EVENTS
        assert sum(map(len, scan_scores(folder.path))) == 300 * 7 * N_EVENTS


def test_a_scan_finds_what_a_finished_run_lacks(scoring: Scoring) -> None:
    folder = scoring.run()
    next(folder.path.glob("*.parquet")).unlink()
    with pytest.raises(DataError, match="the files here hold"):
        list(scan_scores(folder.path))


def test_records_without_a_file_of_scores_are_scored_again(scoring: Scoring) -> None:
    folder = scoring.run()
    next(folder.path.glob("*.parquet")).unlink()
    folder = scoring.run()
    assert scored_ids(folder.path) == all_ids(scoring.raw)


def test_damaged_scores_are_an_error_in_one_line(scoring: Scoring, small: Path) -> None:
    folder = scoring.run()
    for path in folder.path.glob("*.parquet"):
        path.write_bytes(b"PAR1")
    copy_as_new(small, scoring.raw / "b.root", 100)
    with pytest.raises(DataError, match=r"parquet: not a file of scores.*Delete it") as error:
        scoring.run()
    assert "\n" not in str(error.value)


def test_a_merged_record_may_not_leave_the_folder(scoring: Scoring) -> None:
    folder = scoring.run()
    record = next(iter(folder.records.values()))
    merge_records(folder.path, [replace(record, fragment="../b.parquet")])
    with pytest.raises(DataError, match=r"finished\.jsonl: not what hepflow writes there"):
        scoring.begin()


DEADLY = f"""
import os
from hepflow.physics.features import compute_features
def physics(events, definitions):
    if len(events) > {N_EVENTS}:
        os._exit(9)
    return compute_features(events, definitions)
"""


@pytest.mark.system
def test_a_file_that_kills_workers_costs_no_other_file_of_its_task(
    scoring: Scoring, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_physics.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.allowed-failures", 0)
    own = rewritten(model, tmp_path / "own.onnx", physics="")
    write_raw(scoring.raw / "d.root", [10 * N_EVENTS], seed=5)
    output = tmp_path / "scores"
    with pytest.raises(DataError, match="1 of 7 files lost events"):
        run(
            ScoreConfig(
                input=scoring.raw,
                model=own,
                output=output,
                physics="deadly_physics:physics",
                cluster=ClusterConfig(workers=1),
            )
        )
    lost = read_json(output / "_hepflow.json")["ledger"]["lost"]
    assert [item["file"] for item in lost] == ["d.root"]
    assert len(scored_ids(output)) == 6 * N_EVENTS


def hepflow_score(options: Sequence[str | Path], most_bytes: int) -> subprocess.CompletedProcess:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "hepflow", "score", *options]
    return subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.system
def test_a_disk_that_is_full_ends_a_run_in_one_line_and_the_next_resumes(
    scoring: Scoring, model: Path, tmp_path: Path
) -> None:
    write_raw(scoring.raw / "d.root", [600], seed=5)
    output = tmp_path / "scores"
    options = ("--input", scoring.raw, "--model", model, "--output", output)
    options += ("--cluster.workers", "1")
    full = hepflow_score(options, 10_000)
    assert full.returncode == 2
    error = full.stderr.strip().splitlines()
    assert "Traceback" not in full.stderr
    assert error[-1].startswith("hepflow: ")
    assert "File too large" in error[-1]
    assert hepflow_score(options, resource.RLIM_INFINITY).returncode == 0
    assert scored_ids(output) == all_ids(scoring.raw)


@pytest.mark.slow
def test_only_the_files_of_a_list_are_scored_again(
    scoring: Scoring, model: Path, tmp_path: Path, small: Path
) -> None:
    names = sorted(path.name for path in scoring.raw.glob("*.root"))
    damaged = scoring.raw / names[0]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:2000])
    output = tmp_path / "listed"
    own = ScoreConfig(
        input=scoring.raw,
        model=model,
        output=output,
        max_lost_files=1,
        cluster=ClusterConfig(workers=1),
    )
    run(own)
    (row,) = read_json(output / "_lost.json")["lost"]
    assert (row["file"], row["entries"]) == (names[0], None)
    damaged.write_bytes(good)
    before = set(scored_ids(output))
    copy_as_new(small, scoring.raw / "later.root", 77)
    run(replace(own, only=output / "_lost.json", max_lost_files=0))
    assert read_json(output / "_lost.json") == {"lost": []}
    files = set(read_scores(output, ["file"])["file"].to_pylist())
    assert files == set(names), "and not the later one"
    assert before < set(scored_ids(output))
