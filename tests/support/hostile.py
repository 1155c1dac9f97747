"""Readers that get mutated files, each in a process with limits of memory and time.

A process reads one input after another, each made from a number. It answers with what became of it:
read, refused in one line, or a fault. Processes are forks of the server of commands, so that none
has to import anything.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import torch

from hepflow.cli import parse
from hepflow.data.events import open_events, read_fragment
from hepflow.data.file_lists import read_expected, read_list
from hepflow.data.output import MARKER
from hepflow.data.predictions import read_predictions
from hepflow.data.runs import read_record
from hepflow.data.store import EventStore
from hepflow.data.task_records import RECORDS, read_records
from hepflow.errors import HepflowError
from hepflow.ingest.task import Settings, TaskRecord, run_task
from hepflow.models.export import load_net
from hepflow.models.onnx_net import OnnxNet
from hepflow.physics.skim import has_lepton
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.reading.reader import Access
from hepflow.schema import SPLITS
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of, reader_of
from hepflow.score.kafka.messages import Malformed, decode
from hepflow.score.record import ScoreRecord
from hepflow.system.files import read_json
from tests.support.commands import FORKS, start_server
from tests.support.mutations import (
    mutated,
    mutated_json_text,
    mutated_root,
    mutated_yaml,
    mutated_zip,
)

LIMIT_S = 60.0
"""Seconds per input, of a machine that may be busy."""
MOST_MB = 1024
"""Memory that an input may take beyond that of the process before."""
HARD_LIMIT_MB = 6144
"""Address space beyond that of the process before, so that a fault does not stop the machine."""
MARK = "executed"

Reader = Callable[[Path, random.Random, Path], str | None]
"""Read a mutated copy of one of some files: (folder of good files, generator, empty folder).

It returns "lost" if entries are in the ledger."""


@dataclass(frozen=True)
class Answer:
    """Fate of an input."""

    number: int
    kind: str
    """read, lost, refused, traceback, several lines, executed, memory, died, or endless."""
    text: str = ""
    peak_mb: int = 0


FAULTS = {"traceback", "several lines", "executed", "memory", "died", "endless"}


def pick(folder: Path, rng: random.Random) -> Path:
    """Return one of the files in a folder."""
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def read_root(good: Path, rng: random.Random, folder: Path) -> str | None:
    """Ingest a ROOT file: what cannot be read must be in the ledger."""
    return _ingest(mutated_root(pick(good, rng).read_bytes(), rng), rng, folder)


def _ingest(content: bytes, rng: random.Random, folder: Path) -> str | None:
    path = folder / "a.root"
    path.write_bytes(content)
    file = SourceFile("qcd", "a.root", str(path), path.stat().st_size, "1")
    (folder / "out" / RECORDS).mkdir(parents=True)
    settings = Settings(folder / "out", ("qcd",), Access(retries=0))
    count = rng.choice((1, 2))
    ranges = [EntryRange(file, index, count) for index in range(count)]
    record = run_task(ranges, settings)
    for own in record.ranges:
        own.ledger.check()
    (again,) = read_records(settings.output, TaskRecord.from_dict)
    assert again.n_events == sum(own.n_out for own in record.ranges) == record.n_events
    if record.fragment:
        rows = pq.read_table(settings.output / record.fragment, columns=["event_id"])
        assert rows.num_rows == record.n_events == len(set(rows["event_id"].to_pylist()))
    return "lost" if any(own.lost for own in record.ranges) else None


def read_events(good: Path, rng: random.Random, folder: Path) -> None:
    """Read a dataset of ingest of which one file is another, as features and score do."""
    copied = Path(shutil.copytree(rng.choice(sorted(good.iterdir())), folder / "events"))
    path = rng.choice(sorted(copied.rglob("*.parquet")))
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = len(content) - 8 - length if rng.random() < 0.5 else 0
    path.write_bytes(mutated(content, rng, footer))
    for entries in ranges_of(copied, Access(retries=0), 1 << 27):
        reader = reader_of(entries, Access(retries=0))
        for chunk in reader.chunks():
            if chunk.events is not None:
                has_lepton(chunk.events)
    for fragment in open_events(copied).fragments:
        has_lepton(read_fragment(fragment))


def read_message(good: Path, rng: random.Random, _: Path) -> None:
    """Decode a message of a topic."""
    try:
        content = decode(mutated(pick(good, rng).read_bytes(), rng), 1 << 20)
    except Malformed as error:
        raise HepflowError(str(error)) from error
    assert len(content) == len(content.finite) == len(content.events)
    assert content.columns is not None
    assert content.digest


def read_model(good: Path, rng: random.Random, folder: Path) -> None:
    """Open an ONNX model, and run it."""
    content = pick(good, rng).read_bytes()
    if rng.random() < 0.6:
        model = onnx.load_from_string(content)
        _change_model(model, rng)
        content = model.SerializeToString()
    else:
        content = mutated(content, rng)
    (folder / "model.onnx").write_bytes(content)
    net = OnnxNet(folder / "model.onnx", threads=1)
    n_hlf, n_particle = len(net.inputs.hlf), len(net.inputs.particles)
    features = {"hlf": np.ones((2, n_hlf), np.float32), "lengths": np.array([2, 1])}
    features["particles"] = np.ones((2, 3, n_particle), np.float32)
    assert net.logits(features).shape == (2, len(net.inputs.classes))


def _change_model(model: Any, rng: random.Random) -> None:
    graph, huge = model.graph, rng.choice((0, -1, 3, 1 << 31, 1 << 40, (1 << 63) - 1))
    how = rng.randrange(7)
    if how == 0:
        tensor = rng.choice(graph.initializer)
        tensor.dims[:] = [*tensor.dims[:-1], huge] if tensor.dims else [huge]
    elif how == 1:
        tensor = rng.choice(graph.initializer)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(("../a", "/etc/passwd", "a")))
        tensor.ClearField("raw_data")
    elif how == 2:
        value = rng.choice([*graph.input, *graph.output])
        rng.choice(value.type.tensor_type.shape.dim).dim_value = huge
    elif how == 3:
        node = rng.choice(graph.node)
        node.op_type = rng.choice((rng.choice(graph.node).op_type, "Loop", "Nothing", "Reshape"))
    elif how == 4:
        node = rng.choice([one for one in graph.node if one.attribute] or list(graph.node))
        for attribute in node.attribute:
            attribute.i = huge
            attribute.ints[:] = [huge] * len(attribute.ints)
    elif how == 5:
        node = rng.choice(graph.node)
        node.input[:] = [rng.choice(graph.node).output[0] for _ in node.input]
    else:
        prop = rng.choice([one for one in model.metadata_props if one.value.startswith("{")])
        prop.value = mutated_json_text(prop.value.encode(), rng).decode("utf-8", "replace")


def read_configuration(good: Path, rng: random.Random, folder: Path) -> None:
    """Parse a configuration of a command."""
    path = pick(good, rng)
    content = mutated_yaml(path.read_bytes(), rng).replace(b"MARK", str(folder / MARK).encode())
    (folder / "a.yaml").write_bytes(content)
    command = path.stem if path.stem != "store" else "features"
    parse(command, ["--config", str(folder / "a.yaml")])


def read_checkpoint(good: Path, rng: random.Random, folder: Path) -> None:
    """Rebuild the net of a checkpoint."""
    (folder / "a.ckpt").write_bytes(mutated_zip(pick(good, rng).read_bytes(), rng))
    load_net(folder / "a.ckpt")


def read_jsons(good: Path, rng: random.Random, folder: Path) -> None:
    """Open an output of a stage of which one JSON file is another."""
    source = rng.choice(sorted(good.iterdir()))
    copied = Path(shutil.copytree(source, folder / source.name))
    path = rng.choice(sorted(p for p in copied.rglob("*") if p.suffix in {".json", ".jsonl"}))
    path.write_bytes(mutated_json_text(path.read_bytes(), rng))
    if source.name == "events":
        for fragment in open_events(copied).fragments:
            read_fragment(fragment)
        list(read_records(copied, TaskRecord.from_dict))
        read_list(copied / "_lost.json", "raw")
        read_expected(copied / MARKER, "raw")
    elif source.name == "store":
        store = EventStore.open(copied)
        assert store.summary()
        assert store.ledger()
        assert store.incomplete() is not None
        for split in SPLITS:
            for block in store.blocks(split):
                assert len(block) >= 0
    elif source.name == "run":
        read_record(copied)
        read_predictions(copied / "predictions.parquet")
    else:
        list(read_records(copied, ScoreRecord.from_dict))
        ScoreFolder(copied, read_json(source / MARKER))


def read_as_it_is(good: Path, rng: random.Random, folder: Path) -> str | None:
    """Ingest a ROOT file without another change."""
    return _ingest(pick(good, rng).read_bytes(), rng, folder)


READERS: dict[str, Reader] = {
    "root": read_root,
    "events": read_events,
    "message": read_message,
    "model": read_model,
    "configuration": read_configuration,
    "checkpoint": read_checkpoint,
    "json": read_jsons,
}
UNCHANGED = "unchanged"


def fates(reader: str, good: Path, numbers: range, place: Path) -> Iterator[Answer]:
    """Yield what became of each input, and start a new process after each fault."""
    left = list(numbers)
    start_server()
    while left:
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=_serve, args=(reader, good, place, theirs))
        process.start()
        theirs.close()
        try:
            while left:
                answer = _ask(ours, left.pop(0))
                yield answer
                if answer.kind in {"died", "endless"}:
                    break
        finally:
            ours.close()
            process.kill()
            process.join()


def _ask(ours: Connection, number: int) -> Answer:
    try:
        ours.send(number)
        if not ours.poll(LIMIT_S):
            return Answer(number, "endless", f"no answer after {LIMIT_S:g} s")
        answer: Answer = ours.recv()
    except (EOFError, ConnectionError):
        return Answer(number, "died", "the process ended")
    return answer


def _serve(reader: str, good: Path, place: Path, theirs: Connection) -> None:
    """Answer until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    executed = list[str]()
    sys.addaudithook(lambda event, arguments: _watch(executed, event, arguments))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + (HARD_LIMIT_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of libraries in C++
    while True:
        try:
            number = theirs.recv()
        except EOFError:
            return
        theirs.send(_fate(reader, good, place / f"{reader}-{os.getpid()}", number, executed))


def _watch(executed: list[str], event: str, arguments: Any) -> None:
    if event in {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork"}:
        executed.append(f"{event} {arguments}")


def _fate(reader: str, good: Path, folder: Path, number: int, executed: list[str]) -> Answer:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    executed.clear()
    before = _memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    kind, text = "read", ""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            read = read_as_it_is if reader == UNCHANGED else READERS[reader]
            kind = read(good, random.Random(f"{reader} {number}"), folder) or kind
    except HepflowError as error:
        kind, text = "refused", str(error)
        if "\n" in text or len(text) > 2000:
            kind = "several lines"
    except BaseException:  # noqa: BLE001 - the answer
        kind, text = "traceback", traceback.format_exc()
    peak = _memory_mb("VmHWM") - before
    if executed or (folder / MARK).exists():
        kind, text = "executed", "; ".join(executed)
    elif peak > MOST_MB:
        kind, text = "memory", f"{peak} MB, {text}"
    return Answer(number, kind, text, peak)


def _memory_mb(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) >> 10
    raise AssertionError(name)


def summary(answers: list[Answer]) -> str:
    """Return counts of fates as JSON."""
    kinds = [answer.kind for answer in answers]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return json.dumps({**counts, "peak_mb": max(answer.peak_mb for answer in answers)})
