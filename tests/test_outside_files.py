"""Files from strangers execute nothing, and take no memory for what they only announce."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from flatbuffers.table import Table

from hepflow.cli import COMMANDS, main
from hepflow.data.arrays import ShardedArray
from hepflow.data.events import open_events, read_fragment
from hepflow.data.predictions import Predictions, read_predictions, write_predictions
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.models.export import load_net, read_checkpoint
from hepflow.models.hlf import HLFNet
from hepflow.models.inputs import Inputs
from hepflow.models.net import rebuild
from hepflow.models.onnx_net import OnnxNet
from hepflow.reading.delphes import read_delphes
from hepflow.reading.reader import Access
from hepflow.score.inputs import ranges_of, reader_of
from hepflow.score.kafka.messages import Malformed, decode, encode, example
from hepflow.simulate.pool import load as load_pool
from hepflow.system.files import read_json
from tests.support.arrays import write_array
from tests.support.delphes_events import write_dataset
from tests.support.root_files import write_delphes
from tests.support.seals import unseal
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, untrained, write_raw


class Payload:
    """An object that makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that a payload makes."""
    return tmp_path / "ran"


@pytest.fixture
def refused(
    mark: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return a function that runs a command, which must end in one line with nothing executed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(one) for one in arguments])
        printed = capsys.readouterr().err
        assert not mark.exists()
        assert end.value.code == 2, printed
        assert printed.count("\n") == 1, printed
        return printed

    return run


def test_the_payload_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


def test_a_checkpoint_executes_nothing(
    tmp_path: Path, mark: Path, refused: Callable[..., str]
) -> None:
    bad = tmp_path / "best.ckpt"
    torch.save({"hepflow": Payload(mark), "state_dict": {}}, bad)
    with pytest.raises(DataError, match="not readable as a checkpoint"):
        read_checkpoint(bad)
    store = toy_store(tmp_path / "toy.zarr", events=4)
    refused("export", "--run", bad, "--input", store.path)
    refused("score", "--model", bad, "--input", tmp_path, "--output", tmp_path / "scores")
    of_train = ("--data.store", store.path, "--output", tmp_path / "run", "--ckpt_path", bad)
    for command in ("fit", "validate", "predict"):
        refused("train", command, *of_train)


@pytest.mark.parametrize(
    "named",
    [
        "subprocess.Popen",
        "antigravity.fly",
        "this.s",
        "builtins.print",
        "hepflow.cli.main",
        "tests.test_outside_files.Payload",
        "numpy.load",
        "nothing",
        "",
        "..",
    ],
)
def test_a_checkpoint_makes_a_net_and_nothing_else(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda *_: pytest.fail("the checkpoint opened it"))
    inputs = Inputs.of(toy_store(tmp_path / "toy.zarr", events=4))
    description = {**HLFNet(inputs).describe(), "net": named}
    with pytest.raises(ConfigError):
        rebuild(description)
    torch.save({"hepflow": description, "state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(HepflowError):
        load_net(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [{"hepflow": 3}, {"hepflow": {}}, {"hepflow": {"net": 4}}, [1]])
def test_a_checkpoint_of_another_content_is_one_line(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(HepflowError):
        load_net(tmp_path / "a.ckpt")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_a_configuration_executes_nothing(
    name: str, tmp_path: Path, mark: Path, refused: Callable[..., str]
) -> None:
    call = f"!!python/object/apply:os.system ['touch {mark}']"
    config = tmp_path / "bad.yaml"
    for text in (f"{call}\n", f"output: {call}\n", f"data: {{store: {call}}}\nspark: {call}\n"):
        config.write_text(text)
        refused(*name.split(), "--config", config)
    yaml.load(f"a: {call}", yaml.UnsafeLoader)  # the payload works
    assert mark.exists()


def test_hepflow_score_takes_no_class(
    tmp_path: Path, mark: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Net: pass\n")
    config = tmp_path / "bad.yaml"
    for option in ("model", "input", "kafka", "cluster", "spark", "store", "net"):
        config.write_text(yaml.safe_dump({option: {"class_path": "evil.Net"}}))
        refused("score", "--config", config)
        refused("score", f"--{option}", "{class_path: evil.Net}")
    model = untrained(tmp_path, write_raw(tmp_path / "raw" / "a.root", [20], seed=1))
    net = onnx.load(model)
    about = json.loads(next(p.value for p in net.metadata_props if p.key == "hepflow"))
    about |= {"net": "evil.Net", "physics": "evil:Net@0"}
    onnx.helper.set_model_props(net, {"hepflow": json.dumps(about)})
    onnx.save(net, model)
    paths = ("--model", model, "--input", tmp_path / "raw", "--output", tmp_path / "scores")
    refused("score", *paths)


def test_an_array_of_objects_is_no_pool(tmp_path: Path, mark: Path) -> None:
    bad = np.array([Payload(mark)], dtype=object)
    np.savez(tmp_path / "pool.npz", identity=np.array("x"), events_a=bad)
    with pytest.raises(DataError, match="not a minimum-bias pool"):
        load_pool(tmp_path / "pool.npz")
    assert not mark.exists()


@pytest.mark.parametrize("where", ["secret.bin", "../secret.bin", "{}/secret.bin", "/dev/zero"])
def test_a_model_reads_no_other_file(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = untrained(tmp_path, write_raw(tmp_path / "a.root", [20], seed=1))
    net = onnx.load(model)
    tensor = max(net.graph.initializer, key=lambda one: len(one.raw_data))
    for place in (tmp_path, tmp_path.parent, tmp_path / "below"):
        place.mkdir(exist_ok=True)
        (place / "secret.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where.format(tmp_path))
    model.write_bytes(net.SerializeToString())
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(DataError, match="numbers in another file"):
        OnnxNet(model)


def with_extension(schema: pa.Schema, mark: Path) -> pa.Schema:
    """Return a schema with a column whose type is a pickle, as pyarrow's old extension types."""
    about = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(mark)),
    }
    return schema.append(pa.field("evil", pa.int64(), metadata=about))


def test_the_types_of_a_message_and_of_a_parquet_file_execute_nothing(
    tmp_path: Path, mark: Path
) -> None:
    with pa.ipc.open_stream(example()) as stream:
        table = stream.read_all()
    schema = with_extension(table.schema, mark)
    evil = pa.Table.from_arrays([*table.columns, pa.array([1])], schema=schema)
    assert len(decode(encode(evil), 1 << 20)) == 1
    write_some_predictions(tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    schema = with_extension(table.schema, mark)
    column = pa.array(range(len(table)))
    pq.write_table(
        pa.Table.from_arrays([*table.columns, column], schema=schema), tmp_path / "p.parquet"
    )
    assert len(read_predictions(tmp_path / "p.parquet").label) == ROWS
    assert not mark.exists()


def test_reading_a_root_file_evaluates_no_expression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_delphes(tmp_path / "a.root", [20])
    wanted = read_delphes(file).to_list()

    def evaluated(*_: object) -> None:
        raise AssertionError("uproot evaluates aliases as Python")

    monkeypatch.setattr("uproot.language.python._expression_to_function", evaluated)
    monkeypatch.setattr("uproot.deserialization._actually_compile", evaluated)
    assert read_delphes(file).to_list() == wanted


ROWS = 1237


@pytest.mark.parametrize("announced", [0, ROWS - 1, ROWS + 1, 1 << 40, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_root_file_that_announces_entries_costs_itself_alone(
    tmp_path: Path, announced: int, everywhere: bool
) -> None:
    """The tree's count of entries, which comes first, or also those of its branches."""
    raw = tmp_path / "raw" / "qcd"
    write_delphes(raw / "good.root", [100], 2)
    bad = write_delphes(raw / "bad.root", [ROWS])
    old, new = (number.to_bytes(8, "big") for number in (ROWS, announced))
    content = bad.read_bytes()
    assert content.count(old) > 1
    bad.write_bytes(content.replace(old, new, -1 if everywhere else 1))
    ingest(tmp_path / "raw", tmp_path / "events", ("qcd",))
    ledger = open_events(tmp_path / "events").ledger
    assert {item.file for item in ledger.lost} <= {"qcd/bad.root"}
    assert ledger.n_in - ledger.n_lost - ledger.n_rejected == ledger.n_out > 0


HUGE = 1 << 48


def write_some_predictions(path: Path) -> None:
    ids, label = np.arange(ROWS), np.zeros(ROWS, np.int8)
    logits = np.random.default_rng(1).normal(size=(ROWS, 2)).astype(np.float32)
    write_predictions(path, Predictions(ids, label, logits, ("a", "b"), "m", {"split": "test"}))


def varint(number: int) -> bytes:
    """Return an integer as Thrift's compact protocol writes it."""
    number, out = number << 1, b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def announce(path: Path, rows: int, announced: int) -> int:
    """Replace a number everywhere in the footer of a Parquet file, and return how often."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    new = footer.replace(varint(rows), varint(announced))
    path.write_bytes(content[: -8 - length] + new + len(new).to_bytes(4, "little") + b"PAR1")
    return footer.count(varint(rows))


def test_a_parquet_file_that_announces_rows_takes_no_memory(tmp_path: Path) -> None:
    write_some_predictions(tmp_path / "p.parquet")
    unseal(tmp_path / "p.parquet")
    assert announce(tmp_path / "p.parquet", ROWS, HUGE) >= 2
    with pytest.raises(DataError, match="no readable predictions"):
        read_predictions(tmp_path / "p.parquet")


@pytest.mark.parametrize("announced", [5000, HUGE, 1 << 61])
def test_a_fragment_that_announces_events_is_one_line_or_lost(
    tmp_path: Path, announced: int
) -> None:
    """Also if the marker of the dataset agrees with it."""
    folder = write_dataset(tmp_path / "events", 1, 317)
    (file,) = folder.rglob("*.parquet")
    assert announce(file, 317, announced)
    about = read_json(folder / "_hepflow.json")
    about["ledger"] |= {"n_in": announced, "n_out": announced}
    (folder / "_hepflow.json").write_text(json.dumps(about))
    (fragment,) = open_events(folder).fragments
    with pytest.raises(DataError, match="not readable"):
        read_fragment(fragment)
    (entries,) = ranges_of(folder, Access(), 1 << 27)
    (chunk,) = reader_of(entries, Access()).chunks()
    assert chunk.events is None
    assert chunk.stop - chunk.start == announced


def lengthened(message: bytes, length: int) -> bytes:
    """Return an Arrow stream whose record batch announces a number of rows."""
    changed, n = bytearray(message), 0
    for one in pa.ipc.MessageReader.open_stream(message):
        if one.type == "record batch":
            metadata = one.metadata.to_pybytes()
            root = Table(metadata, int.from_bytes(metadata[:4], "little"))
            batch = Table(metadata, root.Indirect(root.Pos + root.Offset(8)))
            at = message.index(metadata) + batch.Pos + batch.Offset(4)
            changed[at : at + 8] = length.to_bytes(8, "little")
            n += 1
    assert n
    return bytes(changed)


@pytest.mark.parametrize("length", [3, 1 << 20, HUGE, (1 << 63) - 1])
def test_a_message_that_announces_rows_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        decode(lengthened(example(), length), 1 << 20)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [HUGE, 2]},
        {"shape": [-1, 2]},
        {"shape": [20, HUGE]},
        {"shape": [20.5, 2]},
        {"shape": "ab"},
        {"data_type": "object"},
        {"data_type": "O"},
        {"data_type": "S1000000000"},
        {"data_type": 7},
        {"chunk": [HUGE, 2]},
        {"chunk": [0, 2]},
        {"chunk": [20, HUGE]},
        {"shard": [HUGE, 2]},
        {"shard": []},
    ],
)
def test_an_array_that_announces_sizes_takes_no_memory(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write_array(tmp_path / "a", np.arange(40.0, dtype=np.float32).reshape(20, 2))
    about = read_json(tmp_path / "a" / "zarr.json")
    inner = about["codecs"][0]["configuration"]
    if "chunk" in change:
        inner["chunk_shape"] = change["chunk"]
    elif "shard" in change:
        about["chunk_grid"]["configuration"]["chunk_shape"] = change["shard"]
    else:
        about |= change
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(DataError):
        ShardedArray.open(tmp_path / "a").read()


@pytest.mark.parametrize("entry", [(0, HUGE), (HUGE, 100), (2**64 - 2, 5), (0, 3)])
def test_an_index_that_leads_out_of_its_file_is_one_line(
    tmp_path: Path, entry: tuple[int, int]
) -> None:
    write_array(tmp_path / "a", np.arange(20))
    shard = tmp_path / "a" / "c.0"
    index = np.array([entry], "<u8").tobytes()
    end = index + google_crc32c.value(index).to_bytes(4, "little")
    shard.write_bytes(shard.read_bytes()[: -len(end)] + end)
    with pytest.raises(DataError):
        ShardedArray.open(tmp_path / "a").read()


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "3", '"a"', "null", '{"a": 1e999}', "{}"])
def test_a_marker_of_another_content_is_one_line(tmp_path: Path, text: str) -> None:
    write_dataset(tmp_path / "events", 1)
    (tmp_path / "events" / "_hepflow.json").write_text(text)
    store = toy_store(tmp_path / "toy.zarr", events=4).path
    (store / "zarr.json").write_text(text)
    for read in (lambda: open_events(tmp_path / "events"), lambda: EventStore.open(store)):
        with pytest.raises(DataError):
            read()
