"""Export: the file returns the checkpoint's logits for any events, and describes itself."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hepflow.config.tools import ExportConfig
from hepflow.data.predictions import read_predictions
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.models.export import load_net, logits_of, run, write_onnx
from hepflow.models.hlf import HLFNet
from hepflow.models.inclusive import InclusiveNet
from hepflow.models.inputs import Inputs
from hepflow.models.net import Net
from hepflow.models.onnx_net import OnnxNet
from hepflow.models.order import features_of
from hepflow.models.sequence import SequenceNet
from hepflow.models.transformer import TransformerNet
from hepflow.system.files import write_json
from tests.support.toy_store import toy_store
from tests.support.trainings import fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return toy_store(tmp_path_factory.mktemp("export") / "toy.zarr", events=40, mean_particles=6)


OPTIONS: list[dict[str, str]] = [{}, {"scale": "symlog"}, {"cell": "lstm"}]


@pytest.mark.parametrize(
    ("net", "options"),
    [
        *product([HLFNet], OPTIONS[:2]),
        *product([SequenceNet, InclusiveNet], OPTIONS),
        (TransformerNet, {}),
    ],
)
def test_the_file_returns_the_same_for_any_batch_and_length(
    store: EventStore, tmp_path: Path, net: type[Net], options: dict[str, str]
) -> None:
    model = net(Inputs.of(store), **options).eval()
    blocks = [
        features_of(model.inputs.particles, "delta_r", block) for block in store.blocks("test")
    ]
    write_onnx(model, tmp_path / "model.onnx", blocks[0])
    exported = OnnxNet(tmp_path / "model.onnx")
    for features in blocks:
        np.testing.assert_allclose(
            exported.logits(features), logits_of(model, features), rtol=1e-5, atol=1e-5
        )
        alone = {name: value[:1] for name, value in features.items()}
        np.testing.assert_allclose(
            exported.logits(alone), logits_of(model, features)[:1], rtol=1e-5, atol=1e-5
        )


def test_an_exported_run_names_its_classes_and_gives_the_written_predictions(
    store: EventStore, tmp_path: Path
) -> None:
    folder = tmp_path / "inclusive"
    fit(store, folder, net="inclusive")
    with pytest.raises(DataError, match=r"differs by .* from its checkpoint, .*nothing was"):
        run(ExportConfig(run=folder, output=tmp_path / "other.onnx", tolerance=0.0))
    assert not (tmp_path / "other.onnx").exists()
    run(ExportConfig(run=folder))
    exported = OnnxNet(folder / "model.onnx")
    assert exported.inputs == load_net(folder).inputs == Inputs.of(store)
    properties = {item.key: item.value for item in onnx.load(folder / "model.onnx").metadata_props}
    assert json.loads(properties["classes"]) == ["qcd", "ttbar", "wjets"]
    assert json.loads(properties["hepflow"])["inputs"]["particles"][0] == "Energy"
    written = read_predictions(folder / "predictions.parquet")
    assert exported.weights == written.provenance["weights"]
    by_id = dict(zip(written.event_id.tolist(), written.logits, strict=True))
    for block in store.blocks("test"):
        logits = exported.logits(
            features_of(exported.inputs.particles, exported.inputs.order, block)
        )
        expected = np.stack([by_id[i] for i in block.event_id.tolist()])
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_is_exported_into_its_run_folder_but_is_not_a_model(
    store: EventStore, tmp_path: Path
) -> None:
    fit(store, tmp_path / "hlf", "--trainer.max_epochs", "1")
    last, model = tmp_path / "hlf" / "checkpoints" / "last.ckpt", tmp_path / "hlf" / "model.onnx"
    with pytest.raises(
        DataError,
        match=r"last\.ckpt: a checkpoint, not an ONNX model\. Convert it with `hepflow export",
    ):
        OnnxNet(last)
    model.unlink()
    run(ExportConfig(run=last))
    assert OnnxNet(model).inputs == Inputs.of(store)


def test_an_export_finds_the_store_of_its_run_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    store = toy_store(tmp_path / "toy.zarr", events=40, mean_particles=1)
    monkeypatch.chdir(tmp_path)
    fit(EventStore.open(Path("toy.zarr")), Path("hlf"), "--trainer.max_epochs", "1")
    (tmp_path / "hlf" / "model.onnx").unlink()
    monkeypatch.chdir("elsewhere")
    run(ExportConfig(run=Path("../hlf")))
    assert (tmp_path / "hlf" / "model.onnx").is_file()
    moved = store.path.rename(tmp_path / "moved.zarr")
    with pytest.raises(
        DataError,
        match=rf"trained on the store {store.path}, which was not found\. Name it, .* by --input",
    ):
        run(ExportConfig(run=Path("../hlf")))
    run(ExportConfig(run=Path("../hlf"), input=moved))


def test_an_export_is_checked_on_as_many_events_as_were_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = toy_store(
        tmp_path / "toy.zarr", events={"qcd": 10, "ttbar": 40, "wjets": 40}, mean_particles=1
    )
    with caplog.at_level("INFO", logger="hepflow"):
        fit(store, tmp_path / "hlf", "--trainer.max_epochs", "1")
        assert "compared with the checkpoint on 180 test events" in caplog.text, (
            "all there are, of every part"
        )
        run(ExportConfig(run=tmp_path / "hlf", check_events=150))
    assert "compared with the checkpoint on 150 test events" in caplog.text


def test_a_net_that_returns_nan_is_not_exported(store: EventStore, tmp_path: Path) -> None:
    folder = tmp_path / "hlf"
    fit(store, folder, "--model.lr", "1e30", "--trainer.max_epochs", "1")
    assert not (folder / "model.onnx").exists()
    with pytest.raises(DataError, match="the net returns NaN or infinity: its training diverged"):
        run(ExportConfig(run=folder))


def test_a_run_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "trees").mkdir()
    with pytest.raises(DataError, match="no checkpoint here"):
        run(ExportConfig(run=tmp_path))
    write_json(tmp_path / "trees" / "run.json", {"model": "gradient-boosted trees"})
    (tmp_path / "hlf" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hlf" / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(
        DataError,
        match=r"a run of gradient-boosted trees, .* only nets .* are exported. Nets in .*: hlf",
    ):
        run(ExportConfig(run=tmp_path / "trees"))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="not a checkpoint of hepflow"):
        load_net(tmp_path / "other.ckpt")
