"""Mutated files are read, refused in one line or counted as lost; nothing else happens.

`make test` tries 300 inputs, and `make fuzz` 20,000 (``HEPFLOW_FUZZ``), always the same ones. An
input that was a fault is made again by its reader and number. Kinds of faults that were found and
fixed have tests of their own below, and in `test_outside_files.py`.
"""

import json
import os
import shutil
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import awkward as ak
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch

from hepflow.cli import parse
from hepflow.config.score import ScoreConfig
from hepflow.data.events import open_events
from hepflow.data.output import MARKER
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.models.export import load_net
from hepflow.models.hlf import HLFNet
from hepflow.models.inputs import Inputs
from hepflow.models.onnx_net import OnnxNet
from hepflow.reading.delphes import read_delphes
from hepflow.score.kafka.messages import SCHEMA, encode, example
from hepflow.system.files import read_json, write_json
from tests.support.delphes_events import write_dataset
from tests.support.hostile import FAULTS, MOST_MB, READERS, UNCHANGED, Answer, fates, summary
from tests.support.mutations import YAML_BOMB, bomb, keys_of, zipped
from tests.support.root_files import corrupt_basket, write_delphes
from tests.support.seals import unseal
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, rewritten, score_here, untrained, write_raw
from tests.support.trainings import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
INPUTS = int(os.environ.get("HEPFLOW_FUZZ", "300"))
SHARES = {"root": 9, "events": 4, "message": 5, "model": 3, "configuration": 3, "checkpoint": 3}
SHARES |= {"json": 3}
ROOT = Path(__file__).parents[1]
SLICE = 500
"""Inputs of a test, so that processes share the work."""
LARGEST = 300_000  # bytes of a real ROOT file that is mutated: the smaller, the more inputs


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per reader, with the files that are mutated."""
    top = tmp_path_factory.mktemp("good")
    _make_root_files(top / "root")
    raw = top / "raw"
    template = write_raw(raw / "qcd" / "a.root", [20, 15], seed=1)
    corrupt_basket(write_raw(raw / "qcd" / "b.root", [12, 8], seed=2))
    write_raw(raw / "ttbar" / "c.root", [10], seed=3)
    write_dataset(top / "events" / "plain", 1, 30, row_group_size=10)  # without checksums of pages
    ingest(raw, top / "events" / "own", ("qcd", "ttbar"))
    (top / "events" / "own" / "_fragments.json").unlink()  # or each change is seen at once
    (top / "message").mkdir()
    for number, fragment in enumerate(open_events(top / "events" / "own").fragments):
        table = pq.read_table(fragment.path, columns=SCHEMA.names).cast(SCHEMA)
        (top / "message" / str(number)).write_bytes(encode(table.slice(0, 4)))
    (top / "message" / "example").write_bytes(example())
    model = untrained(top / "model", template)
    store = toy_store(top / "toy.zarr", events=6, mean_particles=2)
    fit(store, top / "run", "--trainer.max_epochs", "1", "--trainer.logger", "false")
    shutil.rmtree(top / "model" / "toy.zarr")
    shutil.copy(top / "run" / "model.onnx", top / "model" / "trained.onnx")
    (top / "configuration").mkdir()
    for name in ("ingest", "features", "score", "evaluate", "simulate"):
        shutil.copy(ROOT / "configs" / f"{name}.yaml", top / "configuration")
    (top / "checkpoint").mkdir()
    shutil.copy(top / "run" / "checkpoints" / "best.ckpt", top / "checkpoint" / "lightning.ckpt")
    content = torch.load(top / "checkpoint" / "lightning.ckpt", weights_only=True)
    kept = {name: content[name] for name in ("hepflow", "state_dict")}
    torch.save(kept, top / "checkpoint" / "small.ckpt")
    ingest(raw, top / "json" / "events", ("qcd", "ttbar"))
    shutil.copytree(store.path, top / "json" / "store")
    (top / "json" / "run").mkdir()
    for name in ("run.json", "predictions.parquet"):
        shutil.copy(top / "run" / name, top / "json" / "run")
    config = ScoreConfig(input=raw, model=model, output=top / "json" / "scores")
    score_here(config)
    for path in top.rglob("*"):  # whoever damages a file on purpose computes its checksum again
        if path.is_file() and path.suffix != ".root":
            unseal(path)
    return top


def _make_root_files(folder: Path) -> None:
    folder.mkdir()
    write_delphes(folder / "written.root", [10, 8], 1)
    corrupt_basket(write_delphes(folder / "corrupt.root", [10, 8], 2))
    real = [*(ROOT / "tests" / "support" / "files").glob("*.root")]
    shared = Path(os.environ.get("HEPFLOW_SHARED", ROOT.parent / "shared"))
    real += [
        path for name in ("real", "sample", "delphes") for path in shared.glob(f"{name}/**/*.root")
    ]
    for path in real:
        if path.stat().st_size <= LARGEST:
            shutil.copy(path, folder / path.name)


SLICES = [
    pytest.param(reader, range(first, min(first + SLICE, n)), id=f"{reader}-{first}")
    for reader in READERS
    for n in [INPUTS * SHARES[reader] // sum(SHARES.values())]
    for first in range(0, n, SLICE)
]


@pytest.mark.parametrize(("reader", "numbers"), SLICES)
def test_mutated_files_are_read_or_refused(
    reader: str, numbers: range, good: Path, tmp_path: Path
) -> None:
    answers = list(fates(reader, good / reader, numbers, tmp_path))
    assert [answer.number for answer in answers] == list(numbers)
    print(f"{reader} {numbers}: {summary(answers)}")
    kinds = {answer.kind for answer in answers}
    assert "read" in kinds, "the mutations are too harsh"
    assert kinds & {"refused", "lost"}, "they are too mild"
    faults = [answer for answer in answers if answer.kind in FAULTS]
    assert not faults, _in_words(reader, faults)


def _in_words(reader: str, faults: list[Answer]) -> str:
    shown = "\n".join(f"{reader} {one.number}: {one.kind}: {one.text}" for one in faults[:10])
    return f"{len(faults)} faults, the first of them:\n{shown}"


# Kinds of faults that were found, and limits that no small mutation reaches.


@pytest.mark.parametrize("announced", [True, False])
def test_zeros_packed_into_few_bytes_take_no_memory(tmp_path: Path, announced: bool) -> None:
    """2 GB in 2 MB, of which a basket announces all, or some bytes."""
    plain = write_delphes(tmp_path / "plain" / "a.root", [9, 7], 1).read_bytes()
    (tmp_path / "bombs").mkdir()
    content = bomb(plain, 1_900_000_000, announced=announced)
    (tmp_path / "bombs" / "a.root").write_bytes(content)
    assert len(content) < 5 << 20
    (answer,) = fates(UNCHANGED, tmp_path / "bombs", range(1), tmp_path / "place")
    assert answer.kind == "lost", answer
    assert answer.peak_mb <= MOST_MB


def test_a_large_branch_of_zeros_is_no_bomb(tmp_path: Path) -> None:
    """A thousandth of its size, but far from a gigabyte."""
    n = 3000

    def zeros(events: dict[str, ak.Array]) -> dict[str, ak.Array]:
        tracks = events["EFlowTrack"]
        return events | {"EFlowTrack": ak.zip({f: tracks[f] * 0 for f in tracks.fields})}

    path = write_delphes(tmp_path / "a.root", [n], 1, reshape=zeros)
    assert len(read_delphes(path)) == n


def test_an_incomplete_block_is_lost(tmp_path: Path) -> None:
    path = write_delphes(tmp_path / "a.root", [9, 7], 1)
    content = path.read_bytes()
    key = next(one for one in keys_of(content) if "TBasket" in one.class_name and one.n_bytes > 200)
    start, stop = key.at + key.key_bytes + 9, key.at + key.n_bytes
    unpacked = zlib.decompress(content[start:stop])
    less = zlib.compress(unpacked[:-1], 9).ljust(stop - start, b"\0")
    path.write_bytes(content[:start] + less[: stop - start] + content[stop:])
    with pytest.raises(DataError, match="corrupt baskets"):
        read_delphes(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    net = HLFNet(Inputs.of(toy_store(tmp_path / "toy.zarr", events=4)))
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    torch.save({"hepflow": net.describe(), "state_dict": weights}, tmp_path / "a.ckpt")
    assert load_net(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_a_compressed_checkpoint_is_refused_unread(checkpoint: Path) -> None:
    with zipfile.ZipFile(checkpoint) as file:
        members = {name: file.read(name) for name in file.namelist()}
    checkpoint.write_bytes(zipped(members, compressed=True))
    with pytest.raises(DataError, match=r"not readable as a checkpoint \(it is compressed\)"):
        load_net(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"hidden": [30_000, 30_000, 30_000]}},
        {"arguments": {"hidden": [-5]}},
        {"arguments": {"hidden": "abc"}},
        {"arguments": {"nothing": 1}},
        {"arguments": 7},
        {"inputs": {"hlf": 3}},
    ],
)
def test_a_checkpoint_of_another_net_than_its_weights_is_one_line(
    checkpoint: Path, change: dict[str, object]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hepflow"] |= change
    torch.save(content, checkpoint)
    with pytest.raises(HepflowError, match=r"^.+$"):
        load_net(checkpoint)


@pytest.mark.parametrize("at", [0, 20, 40, 100, 200])
def test_a_checkpoint_with_another_byte_is_one_line_or_readable(checkpoint: Path, at: int) -> None:
    content = bytearray(checkpoint.read_bytes())
    for value in (0x00, 0x80, 0xFF):
        content[-at - 1] = value
        checkpoint.write_bytes(content)
        with suppress(HepflowError):
            load_net(checkpoint)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return untrained(tmp_path, write_raw(tmp_path / "a.root", [20], seed=1))


SPREADS = [{"edges": [[1, 2], 3]}, {"edges": [[[1]]]}, {"share": []}, {"counts": "a"}, {"share": 3}]


@pytest.mark.parametrize("change", SPREADS, ids=str)
def test_a_model_with_another_spread_is_one_line(model: Path, change: dict[str, object]) -> None:
    content = onnx.load(model)
    about = json.loads(next(p.value for p in content.metadata_props if p.key == "hepflow"))
    spread = {**about["spread"], **change}
    with pytest.raises(DataError, match="its metadata do not describe its inputs"):
        OnnxNet(rewritten(model, model, spread=spread))


def test_a_model_that_cannot_be_run_is_one_line(model: Path) -> None:
    content = onnx.load(model)
    for tensor in content.graph.initializer:
        if len(tensor.dims) == 2:  # a matrix of the same size and another shape
            tensor.dims[:] = [tensor.dims[0] * tensor.dims[1], 1]
    onnx.save(content, model)
    features = {"hlf": np.ones((2, 14), np.float32)}
    with pytest.raises(HepflowError) as error:
        OnnxNet(model).logits(features)
    assert "\n" not in str(error.value)


CONFIGURATIONS = {
    "max_lost_files:\nretries: 3\n": "max_lost_files has no value",
    "samples: ~": "samples has no value",
    "retries: " + "9" * 5000: "a value cannot be read",
    YAML_BOMB: "aliases of aliases",
    f"samples: {{qcd: &a [qcd]}}\n{YAML_BOMB}": "aliases of aliases",
    "samples: &x {a: *x}": "aliases of aliases",
    "output: !!timestamp x": "",
    "output: " + "[" * 3000: "",
}


@pytest.mark.parametrize("text", CONFIGURATIONS, ids=lambda text: text[:20])
def test_a_configuration_that_yaml_cannot_hold_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=CONFIGURATIONS[text]) as error:
        parse("ingest", ["--config", str(path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"n_out": [1]}, {"n_in": -1}, {"n_in": 7}, {"lost": [{}]}])
def test_a_ledger_of_another_content_is_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    write_dataset(tmp_path / "events", 1)
    about = read_json(tmp_path / "events" / MARKER)
    about["ledger"] |= change
    write_json(tmp_path / "events" / MARKER, about)
    with pytest.raises(DataError, match="not what hepflow writes"):
        open_events(tmp_path / "events")


def test_an_error_that_quotes_a_library_is_one_line(tmp_path: Path) -> None:
    assert str(DataError("a\nb\n")) == "a\N{SYMBOL FOR LINE FEED}b\N{SYMBOL FOR LINE FEED}"
    assert str(DataError("a  b.root")) == "a  b.root"
    folder = write_dataset(tmp_path / "events", 1)
    (file,) = folder.rglob("*.parquet")
    content = bytearray(file.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[footer : footer + 20] = b"\xff" * 20
    file.write_bytes(content)
    with pytest.raises(DataError, match="not a Parquet file") as error:
        open_events(folder)
    assert "\n" not in str(error.value)
