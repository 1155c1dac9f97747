"""A run folder: its record, and that emptying it removes nothing of others."""

import json

import pytest

from hepflow.data.runs import clear, read_record

OF_HEPFLOW = {
    "run.json",
    "config.yaml",
    "metrics.csv",
    "predictions.parquet",
    "model.onnx",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "checkpoints/last-v1.ckpt",
}
LOGS = {"tensorboard/0123/events.out"}
OF_OTHERS = {"notes.txt", "plots/roc.png", "metrics.csv.bak"}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    for name in OF_HEPFLOW | LOGS | OF_OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_the_record_of_a_run_is_read_and_that_of_no_run_is_empty(tmp_path):
    assert read_record(tmp_path) == read_record(tmp_path / "nowhere") == {}
    (tmp_path / "run.json").write_text(json.dumps({"seed": 7}))
    assert read_record(tmp_path) == {"seed": 7}


def test_clearing_a_run_leaves_the_files_of_others_and_the_logs_of_other_runs(run):
    clear(run)
    assert files(run) == LOGS | OF_OTHERS
    assert not (run / "checkpoints").exists()


def test_clearing_a_run_with_its_logs_leaves_the_files_of_others(run):
    clear(run, logs=True)
    assert files(run) == OF_OTHERS


def test_a_run_that_wrote_only_its_record_is_cleared(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    clear(tmp_path, logs=True)
    assert files(tmp_path) == set()


def test_a_folder_without_a_record_is_no_run_and_is_left_alone(run):
    (run / "run.json").unlink()
    before = files(run)
    clear(run, logs=True)
    assert files(run) == before
