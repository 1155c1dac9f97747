"""Ranks of a training: strangers find no port, and are refused where they find one."""

import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

from hepflow.config.shipped import shipped
from hepflow.errors import HepflowError
from hepflow.system.processes import RANKS, RANKS_KEY
from hepflow.train.ranks import SIZE, keep_to_themselves, listening
from tests.support.commands import Command, listening_of
from tests.support.toy_store import toy_store

pytestmark = pytest.mark.slow

STRANGER = """
import os, sys, torch, torch.distributed as dist

class Bomb:
    def __reduce__(self):
        return os.mkdir, (sys.argv[2],)

store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), 2)
dist.init_process_group("gloo", store=store, rank=1, world_size=2)
for _ in range(2):
    received = torch.empty(64, dtype=torch.uint8)
    dist.all_to_all_single(received, received.clone())
dist.broadcast_object_list([Bomb()], src=1)
dist.all_gather_object([None, None], Bomb())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store and a configuration of two short epochs."""
    folder = tmp_path_factory.mktemp("ranks")
    toy_store(folder / "toy.zarr", events=35, mean_particles=5)
    trainer = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    text = yaml.safe_load(shipped("train/hlf.yaml").read_text())
    text["data"] = {"store": "toy.zarr", "batch_size": 31, "workers": 0}
    (folder / "mine.yaml").write_text(yaml.safe_dump(text | {"trainer": trainer}))
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def node(folder: Path, rank: int, port: int, key: str, output: str) -> Command:
    """Start a training of two nodes, here both on this machine."""
    where = {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    two = ("--trainer.strategy", "ddp", "--trainer.num_nodes", "2", "--trainer.devices", "1")
    options = ("train", "fit", "--config", "mine.yaml", *two, "--output", output)
    return Command(*options, env=where | {RANKS_KEY: key}, cwd=folder)


def test_ranks_on_one_machine_listen_on_loopback_and_have_no_port_to_meet(folder: Path) -> None:
    pause = {"class_path": "tests.support.crash.PauseOnce", "init_args": {"step": 3}}
    (folder / "pause.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [pause]}}))
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--output", "paused")
    fit = Command(
        "train", "fit", *("--config", "mine.yaml", "--config", "pause.yaml"), *two, cwd=folder
    )
    try:
        while not all((folder / "paused" / f"paused-{rank}").exists() for rank in range(2)):
            assert fit.poll() is None, fit.printed()
            time.sleep(0.1)
        opened = listening_of(fit.pid)
        (second,) = psutil.Process(fit.pid).children()
        given = second.environ()
        meeting = Path(given[RANKS])
        assert opened, "gloo listens"
        assert {address.ip for address in opened} <= {"127.0.0.1", "::1"}
        assert int(given["MASTER_PORT"]) not in {address.port for address in opened}
        for private in (meeting, meeting.parent):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
    finally:
        fit.kill()


def test_ranks_of_two_nodes_with_the_same_key_train(folder: Path) -> None:
    port, key = free_port(), secrets.token_hex(SIZE)
    nodes = [node(folder, rank, port, key, "same") for rank in range(2)]
    for done in [each.finish() for each in nodes]:
        assert done.returncode == 0, done.stderr
        assert key not in done.stderr
        assert "share no key" not in done.stderr


def test_ranks_without_a_key_report_it(folder: Path) -> None:
    port = free_port()
    nodes = [node(folder, rank, port, "", "open") for rank in range(2)]
    first, second = [each.finish() for each in nodes]
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stderr.count(f"Give all of them the same secret in the variable {RANKS_KEY}.") == 1


def test_ranks_with_another_key_are_refused_in_one_line(folder: Path) -> None:
    port = free_port()
    nodes = [node(folder, rank, port, secrets.token_hex(SIZE), "differ") for rank in range(2)]
    for rank, done in enumerate([each.finish() for each in nodes]):
        assert done.returncode == 2, done.stderr
        (line,) = (line for line in done.stderr.splitlines() if "hold the key" in line)
        assert f"rank {1 - rank} does not hold the key of rank {rank}" in line
        assert "Traceback" not in done.stderr


def test_a_stranger_in_the_place_of_a_rank_runs_nothing(folder: Path, tmp_path: Path) -> None:
    port, harm = free_port(), tmp_path / "harm"
    first = node(folder, 0, port, secrets.token_hex(SIZE), "attacked")
    command = [sys.executable, "-c", STRANGER, str(port), str(harm)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as stranger:
        done = first.finish(timeout=60)
        stranger.kill()
    assert done.returncode == 2, done.stderr
    assert "rank 1 does not hold the key of rank 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not harm.exists()


def test_the_place_to_meet_is_on_one_address() -> None:
    with listening("127.0.0.1", 0) as one:
        host, port = one.getsockname()
        assert host == "127.0.0.1"
        for libuv in (True, False):
            with listening("127.0.0.1", 0) as other:
                at = other.getsockname()
                dist.TCPStore(
                    *at, 1, is_master=True, master_listen_fd=os.dup(other.fileno()), use_libuv=libuv
                )
        assert port != at[1]


def test_a_place_that_is_taken_or_unknown_is_named_in_one_line() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HepflowError, match=rf"cannot meet at 127.0.0.1:{port} \(Address"):
            listening("127.0.0.1", port)
    with pytest.raises(HepflowError, match=r"cannot meet at nowhere\.invalid:1"):
        listening("nowhere.invalid", 1)


def test_an_address_of_another_machine_is_met_on_all_of_ours() -> None:
    with listening("192.0.2.1", 0) as translated:  # of a documentation's network
        assert translated.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("own", [False, True])
def test_ranks_of_a_strategy_of_the_user_s_own_are_named(
    own: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Mine(DDPStrategy):
        pass

    monkeypatch.delenv(RANKS, raising=False)
    with caplog.at_level("WARNING", logger="hepflow"):
        keep_to_themselves(Trainer("cpu", strategy=Mine() if own else "auto", devices=2))
    assert (RANKS in os.environ) != own
    assert any("may join the ranks of Mine" in line for line in caplog.messages) == own
    monkeypatch.delenv(RANKS, raising=False)
