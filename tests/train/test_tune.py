"""Hyper-parameter search: resumable, blind to the test split; its best is an overlay."""

import csv
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from distributed import LocalCluster

from tests.support.toy_store import toy_store

optuna = pytest.importorskip("optuna", reason="needs hepflow[tune]")

from hepflow.config.engines import ClusterConfig  # noqa: E402
from hepflow.config.tools import TuneConfig  # noqa: E402
from hepflow.data.store import EventStore  # noqa: E402
from hepflow.errors import ConfigError, DataError, HepflowError  # noqa: E402
from hepflow.system import locks  # noqa: E402
from hepflow.system.files import read_json  # noqa: E402
from hepflow.train.cli import main as train  # noqa: E402
from hepflow.train.tune.folds import make_folds  # noqa: E402
from hepflow.train.tune.job import _alone_in, _fit, _load, merged, run  # noqa: E402

pytestmark = pytest.mark.slow

HIDDEN = "model.net.init_args.hidden"
SPACE = {"model.lr": {"low": 1e-5, "high": 0.05, "log": True}, HIDDEN: [[8], [16, 8]]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterConfig]:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as running:
        yield ClusterConfig(kind="address", address=running.scheduler_address)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return toy_store(tmp_path_factory.mktemp("tune") / "toy.zarr", events=40, mean_particles=2)


@pytest.fixture(scope="module")
def net(store: EventStore) -> str:
    path = store.path.parent / "small.yaml"
    overlay = {
        "model": {"net": {"class_path": "hepflow.models.hlf.HLFNet"}},
        "data": {"batch_size": 32, "workers": 0},
        "trainer": {"max_epochs": 3},
    }
    path.write_text(yaml.safe_dump(overlay))
    return str(path)


@pytest.fixture(scope="module")
def search(
    store: EventStore, net: str, cluster: ClusterConfig, tmp_path_factory: pytest.TempPathFactory
) -> TuneConfig:
    """Return a search that was stopped during a trial, and resumed; its test split is NaN."""
    blind = tmp_path_factory.mktemp("search") / "blind.zarr"
    shutil.copytree(store.path, blind)
    root = zarr.open_group(blind, mode="r+")
    for rows in store.all_ranges("test"):
        root["hlf"][rows.first : rows.first + rows.n_events] = np.nan
    own = {
        "net": net,
        "input": blind,
        "output": blind.parent / "tune",
        "space": SPACE,
        "cluster": cluster,
    }
    run(TuneConfig(**own, trials=4))
    distributions = {"model.lr": optuna.distributions.FloatDistribution(1e-5, 0.05, log=True)}
    distributions[HIDDEN] = optuna.distributions.CategoricalDistribution(["[8]", "[16, 8]"])
    config = TuneConfig(**own, trials=12)
    left = _load(config)
    left.enqueue_trial({"model.lr": 0.04, HIDDEN: "[16, 8]"})
    left.ask(distributions)
    run(config)
    return config


def test_a_stopped_search_resumes_with_the_unfinished_trial(search: TuneConfig) -> None:
    states = [trial.state.name for trial in _load(search).trials]
    assert states.count("FAIL") == 1
    assert states.count("COMPLETE") + states.count("PRUNED") == search.trials
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    with_those = [
        trial.state.name for trial in _load(search).trials if trial.params["model.lr"] == 0.04
    ]
    assert with_those[0] == "FAIL"
    assert len(with_those) == 2
    before = (search.output / "study.journal").read_bytes()
    run(search)
    assert len(_load(search).trials) == search.trials + 1
    assert (search.output / "study.journal").read_bytes().startswith(before)


def test_hopeless_trials_end_early(search: TuneConfig) -> None:
    pruned = [trial for trial in _load(search).trials if trial.state.name == "PRUNED"]
    assert pruned
    best = _load(search).best_value
    assert all(len(trial.intermediate_values) < 3 or trial.last_step == 2 for trial in pruned)
    assert all(min(trial.intermediate_values.values()) > best for trial in pruned)


def test_the_best_is_an_overlay_that_trains_to_the_loss_it_promises(
    search: TuneConfig, store: EventStore, tmp_path: Path
) -> None:
    options = (
        "--data.store",
        str(store.path),
        "--output",
        str(tmp_path / "run"),
        "--seed",
        str(search.seed),
        "--threads",
        "1",
    )
    train(
        [
            "fit",
            "--config",
            str(search.output / "best.yaml"),
            *options,
            "--trainer.enable_progress_bar",
            "false",
        ]
    )
    history = read_json(tmp_path / "run" / "run.json")["history"]
    assert min(row["val_loss"] for row in history) == pytest.approx(
        _load(search).best_value, rel=1e-6
    )


def test_a_finished_trial_that_is_resumed_keeps_its_loss(
    net: str, store: EventStore, tmp_path: Path
) -> None:
    losses = [_fit(Path(net), store.path, tmp_path / "trial", 1) for _ in range(2)]
    assert losses[0] == losses[1]


def test_all_trials_are_listed_and_plotted(search: TuneConfig) -> None:
    with (search.output / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(len(_load(search).trials)))
    assert (
        min(float(row["val_loss"]) for row in rows if row["state"] == "complete")
        == _load(search).best_value
    )
    assert (search.output / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_another_search_does_not_go_into_the_same_folder(search: TuneConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"holds a search with another space\. Choose another --output"
    ):
        run(replace(search, space={"model.lr": [0.1]}))
    with pytest.raises(
        ConfigError, match=r"holds a search with another sampler and another pruning\. Choose"
    ):
        run(replace(search, sampler="random", pruning=False))


def test_a_grid_is_every_combination_once(
    store: EventStore, net: str, cluster: ClusterConfig, tmp_path: Path
) -> None:
    space = {"model.lr": [0.001, 0.01], "trainer.max_epochs": [1, 2]}
    config = TuneConfig(
        net=net,
        input=store.path,
        output=tmp_path / "grid",
        space=space,
        sampler="grid",
        pruning=False,
        cluster=cluster,
    )
    run(config)
    points = [tuple(trial.params.values()) for trial in _load(config).trials]
    assert sorted(points) == [("0.001", "1"), ("0.001", "2"), ("0.01", "1"), ("0.01", "2")]


def test_a_fold_holds_out_its_own_events_and_has_its_own_statistics(
    store: EventStore, tmp_path: Path
) -> None:
    def events(of: EventStore, split: str) -> set[int]:
        return {i for block in of.blocks(split) for i in block.event_id.tolist()}

    folds = [EventStore.open(path) for path in make_folds(store.path, tmp_path, 3)]
    known = events(store, "train") | events(store, "val")
    held_out = [events(fold, "val") for fold in folds]
    assert set().union(*held_out) == known
    assert sum(map(len, held_out)) == len(known)
    for fold, val in zip(folds, held_out, strict=True):
        assert events(fold, "train") == known - val
        assert events(fold, "test") == set()
        seen = np.concatenate([block.hlf for block in fold.blocks("train")])
        assert fold.statistics["hlf"]["mean"] == pytest.approx(
            seen.mean(axis=0, dtype=np.float64).tolist(), abs=1e-6
        )
    tiny = toy_store(tmp_path / "tiny.zarr", events=2, parts=1).path
    for _ in range(2):  # also where the fold was made before
        with pytest.raises(DataError, match=r"fold 0 of 9 has no .* Ask for fewer folds"):
            make_folds(tiny, tmp_path / "tiny", 9)


def test_cross_validation_gives_the_mean_over_the_folds(
    store: EventStore, net: str, cluster: ClusterConfig, tmp_path: Path
) -> None:
    config = TuneConfig(
        net=net,
        input=store.path,
        output=tmp_path / "cv",
        space={"model.lr": [0.01]},
        trials=1,
        folds=2,
        cluster=cluster,
    )
    run(config)
    (trial,) = _load(config).trials
    losses = []
    for fold in range(2):
        output, of_fold = tmp_path / f"own-{fold}", tmp_path / "cv" / f"fold-{fold}-of-2.zarr"
        options = (
            "--config",
            net,
            "--model.lr",
            "0.01",
            "--data.store",
            str(of_fold),
            "--output",
            str(output),
            "--threads",
            "1",
        )
        with pytest.raises(DataError, match="split test: no events"):
            train(["fit", *options, "--trainer.enable_progress_bar", "false"])
        losses.append(min(row["val_loss"] for row in read_json(output / "run.json")["history"]))
    assert trial.value == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {}}, "space is empty"),
        ({"space": {"model.lr": 3}}, r"space.model.lr must be a list of values, or a range"),
        ({"space": {"model.lr": {"low": 1, "hihg": 2}}}, "must be a list of values, or a range"),
        (
            {"space": {"model.lr": {"low": 1, "high": 0}}},
            r"space.model.lr must be a range with low < high",
        ),
        ({"space": {"model.lr": {"low": 0, "high": 1, "log": True}}}, r"log \(then low > 0\)"),
        ({"space": SPACE, "sampler": "grid"}, r"space.model.lr must be a list of values; got"),
        ({"folds": 1}, "folds must be 0 or at least 2"),
    ],
)
def test_a_wrong_space_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuneConfig(**options)  # type: ignore[arg-type]


def test_a_point_that_cannot_be_trained_does_not_end_the_search(
    store: EventStore,
    net: str,
    cluster: ClusterConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = {"net": net, "input": store.path, "sampler": "grid", "cluster": cluster}
    config = TuneConfig(
        **own,
        output=tmp_path / "tune",
        space={"trainer.max_epochs": [1], "data.batch_size": [9999, 32]},
    )
    with caplog.at_level("INFO", "hepflow"):
        run(config)
    assert "[1/2] trial 0: batch_size 9999 is more than the 240 events of an epoch" in caplog.text
    with (config.output / "trials.csv").open(newline="") as file:
        bad, good = csv.DictReader(file)
    assert (bad["state"], bad["val_loss"], bad["reason"][:15]) == ("pruned", "", "batch_size 9999")
    assert (good["state"], good["reason"]) == ("complete", "")
    with pytest.raises(
        DataError,
        match=r"all trials failed. Check the space: batch_size 9999 is more than",
    ):
        run(TuneConfig(**own, output=tmp_path / "none", space={"data.batch_size": [9999]}))


def test_a_loss_of_nan_is_no_result(
    store: EventStore, net: str, cluster: ClusterConfig, tmp_path: Path
) -> None:
    own = {"net": net, "input": store.path, "sampler": "grid", "pruning": False, "cluster": cluster}
    with pytest.raises(
        DataError, match=r"all trials failed. Check the space: its loss was NaN or infinite"
    ):
        run(TuneConfig(**own, output=tmp_path / "tune", space={"model.lr": [1e30]}))


def test_a_trial_waits_for_another_one_of_the_same_point(tmp_path: Path) -> None:
    def train_there() -> None:
        with _alone_in(tmp_path / "point"):
            pass

    with ThreadPoolExecutor(1) as pool:
        with locks.exclusive(tmp_path / "point"):
            second = pool.submit(train_there)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.1)
        second.result()


def test_an_unknown_option_in_the_space_is_one_line(
    store: EventStore, net: str, cluster: ClusterConfig, tmp_path: Path
) -> None:
    with pytest.raises(
        HepflowError, match=r"^space: no option model\.learning_rate\..*See `hepflow tune --help`"
    ) as error:
        run(
            TuneConfig(
                net=net,
                input=store.path,
                output=tmp_path / "tune",
                space={"model.learning_rate": [0.1]},
                cluster=cluster,
            )
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tune").exists(), "before anything is begun"
    (tmp_path / "own.yaml").write_text("model: {lrr: 0.1}")
    with pytest.raises(
        ConfigError, match=r"own\.yaml: no option model\.lrr\. Did you mean model\.lr\?"
    ):
        run(
            TuneConfig(
                net=str(tmp_path / "own.yaml"),
                input=store.path,
                output=tmp_path / "tune",
                cluster=cluster,
            )
        )


def test_options_are_put_into_an_overlay() -> None:
    overlay = {"model": {"lr": 1, "net": {"class_path": "X"}}}
    assert merged(overlay, {"model.lr": 2, "model.net.init_args.hidden": [3]}) == {
        "model": {"lr": 2, "net": {"class_path": "X", "init_args": {"hidden": [3]}}}
    }
    assert overlay["model"]["lr"] == 1
