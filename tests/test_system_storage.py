"""Files on HDFS, S3 and XRootD: whole, claimed once, removed; paths keep the names of servers."""

import importlib
import os
import pickle
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hepflow.errors import ConfigError, DataError
from hepflow.system import locks
from hepflow.system.locks import exclusive
from hepflow.system.places import place
from hepflow.system.publishing import claim, rewrite, whole
from hepflow.system.remote import is_remote
from hepflow.system.storage import listed, make_folder, remove, remove_all, remove_tree, sizes_below
from tests.support.stores import S3Server


def put(path: Path, text: str) -> None:
    with whole(path) as written:
        written.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_may_be_replaced(anywhere: Path) -> None:
    make_folder(anywhere)
    for text in ("one", "two, longer"):
        put(anywhere / "a.txt", text)
        assert (anywhere / "a.txt").read_text() == text
    assert names(anywhere) == ["a.txt"]


def test_a_writer_that_fails_leaves_the_old_file_alone(anywhere: Path) -> None:
    make_folder(anywhere)
    put(anywhere / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), whole(anywhere / "a.txt") as written:
        written.write_text(f"new, but {1 / 0}")
    assert (anywhere / "a.txt").read_text() == "old"
    assert names(anywhere) == ["a.txt"]


def test_of_many_one_claims_a_name(anywhere: Path) -> None:
    make_folder(anywhere)
    for number in range(3):
        path = anywhere / f"claim{number}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, path=path: claim(path, str(who)), range(8)))
        assert sum(won) == 1
        assert path.read_text() == str(won.index(True))
    assert not any(name.startswith(".") for name in names(anywhere))


def test_files_and_folders_are_removed_and_missing_ones_are_no_error(anywhere: Path) -> None:
    make_folder(anywhere / "below" / "that")
    put(anywhere / "below" / "that" / "a.txt", "a")
    put(anywhere / "b.txt", "b")
    remove(anywhere / "b.txt")
    remove(anywhere / "b.txt")
    assert names(anywhere) == ["below"]
    remove_tree(anywhere)
    remove_tree(anywhere)
    assert not anywhere.exists()


def test_files_are_removed_together_and_missing_ones_are_no_error(anywhere: Path) -> None:
    wanted = [f"{n}.json" for n in range(20)] + ["a[1].json", "what?.json"]
    make_folder(anywhere)
    for name in (*wanted, "a1.json", "whatever.json"):
        put(anywhere / name, "x")
    remove_all(anywhere / name for name in [*wanted, "missing.json", "missing[1].json"])
    assert names(anywhere) == ["a1.json", "whatever.json"]
    remove_all([])


@pytest.mark.slow
@pytest.mark.s3
def test_many_files_of_s3_are_removed_in_few_requests(s3: str, s3_server: S3Server) -> None:
    folder = place(f"{s3}/removed")
    for n in range(30):
        put(folder / f"{n}.json", "x")
    before = s3_server.n_requests
    remove_all(folder / f"{n}.json" for n in range(30))
    assert s3_server.n_requests - before < 5
    assert listed(folder) == []


def test_a_path_keeps_its_url_and_survives_pickling(away: Path) -> None:
    path = away / "a folder" / "x.parquet"
    assert str(path).startswith(str(away))
    assert pickle.loads(pickle.dumps(path)) == path == place(str(path))
    assert str(path.parent.parent) == str(away)
    assert path.relative_to(away).as_posix() == "a folder/x.parquet"
    assert is_remote(path)
    assert not is_remote(place("a/b"))


@pytest.mark.parametrize(
    "url", ["hdfs://nn:8020/a", "hdfs://ns/a/b", "hdfs:///a", "s3://b/a", "root://h:1//a/b"]
)
def test_the_url_of_a_path_is_the_one_that_was_given(url: str) -> None:
    assert str(place(url)) == url
    assert str(place(url) / "c") == f"{url}/c"


def test_an_unknown_protocol_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no file system for nowhere://"):
        place("nowhere://a/b")
    assert place("file:///a/b") == Path("/a/b")
    assert place(Path("x")) == Path("x")


def test_a_lock_is_held_once_and_gone_at_the_end(
    anywhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.5)
    with exclusive(anywhere):
        held = f"another run is writing it .process {os.getpid()} on"
        with pytest.raises(DataError, match=held), exclusive(anywhere):
            pass
        make_folder(anywhere)
        put(anywhere / "a.txt", "a")
    assert names(anywhere) == ["a.txt"]
    with exclusive(anywhere):
        pass
    assert not [path for path in listed(anywhere.parent) if ".lock" in path.name]


def test_what_a_claim_says_is_there_at_every_instant(away: Path) -> None:
    own = away.parent / f".{away.name}.lock.000001"
    make_folder(away.parent)
    assert claim(own, "process 1 on a, seen 0")
    done = threading.Event()

    def renew() -> None:
        while not done.is_set():
            rewrite(own, b"process 1 on a, seen 1")

    with ThreadPoolExecutor(1) as pool:
        renewed = pool.submit(renew)
        said = {locks._said(own) for _ in range(30)}
        done.set()
        renewed.result()
    assert said <= {"process 1 on a, seen 0", "process 1 on a, seen 1"}
    remove(own)


def test_the_claim_of_a_run_that_died_is_taken_over(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "STALE_S", 1.0)
    make_folder(away.parent)
    ended = "process 4194305 on "  # beyond the largest pid
    for holder in (f"{ended}{socket.gethostname()}, seen 1", f"{ended}elsewhere, seen 1"):
        claim(away.parent / f".{away.name}.lock.000007", holder)
        with exclusive(away):
            assert [path.suffix for path in locks._claims(away)] == [".000008"]
        assert not locks._claims(away)


def test_a_run_that_was_cut_off_says_that_another_took_over(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.1)

    def cut_off() -> None:
        with exclusive(away):
            (own,) = locks._claims(away)
            remove(own)  # as the other run does
            time.sleep(0.5)
            assert not locks._claims(away), "it is not renewed"

    with pytest.raises(DataError, match="another run took it over"):
        cut_off()


def test_a_run_that_takes_the_number_of_an_ended_one_is_not_overlooked(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third one begins after the first has ended, and before the second, which waited, claims."""
    number_1 = away.parent / f".{away.name}.lock.000001"
    ended = f"process 999999999 on {socket.gethostname()}, seen 1.000"
    third = f"process {os.getpid()} on {socket.gethostname()}, seen 2.000"
    put(number_1, ended)

    def meanwhile(path: Path, text: str) -> bool:
        put(number_1, third)
        return claim(path, text)

    monkeypatch.setattr("hepflow.system.locks.claim", meanwhile)
    with pytest.raises(DataError, match="another run is writing it"), exclusive(away):
        pass
    assert [path.name for path in listed(away.parent) if ".lock." in path.name] == [number_1.name]
    assert number_1.read_text() == third


def test_runs_of_the_same_moment_do_not_take_each_others_claim_for_their_own(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks.time, "time", lambda: 1.0)
    make_folder(away)
    first, second = locks._holder(), locks._holder()
    assert claim(away / "lock", first)
    assert not claim(away / "lock", second)


def test_of_runs_that_start_at_once_at_most_one_goes_on(away: Path) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> bool:
        nonlocal running, most
        try:
            with exclusive(away):
                with lock:
                    running, most = running + 1, max(most, running + 1)
                time.sleep(0.2)
                with lock:
                    running -= 1
        except DataError:
            return False
        return True

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    assert most == 1


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.s3
def test_more_keys_than_an_answer_of_s3_holds(s3: str) -> None:
    """It names up to a thousand; so many are put past the server, which would take a minute."""
    bucket = importlib.import_module("moto.backends").get_backend("s3")["123456789012"]["aws"]
    for number in range(10_000):
        bucket.put_object("bucket", f"many/{number:05d}", b"x")
    folder = place(f"{s3}/many")
    assert [path.name for path in listed(folder)] == [f"{number:05d}" for number in range(10_000)]
    assert len(sizes_below(folder)) == 10_000
    remove_tree(folder)
    assert listed(folder) == []
