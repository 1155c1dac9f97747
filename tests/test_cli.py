"""The command line: fast, with complete help, and one line per error."""

import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
import yaml

from hepflow.cli import (
    COMMANDS,
    GROUPS,
    INTERRUPTED,
    _groups,
    _interrupted,
    _is_closed,
    _with_threads,
    main,
    parse,
)
from hepflow.config.engines import JobsConfig, SparkConfig
from hepflow.config.options import SWITCH
from hepflow.config.score import ScoreConfig
from hepflow.config.shipped import shipped, with_shipped
from hepflow.config.stages import EvaluateConfig, FeaturesConfig
from hepflow.errors import ConfigError
from hepflow.system import patience

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIGURED = [name for name, command in COMMANDS.items() if command.config]
HEAVY = ("torch", "pyspark", "dask", "distributed", "numba", "uproot", "awkward", "matplotlib")


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs hepflow here and returns its output, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed, errors = capsys.readouterr()
        assert bool(end.value.code) == bool(errors)
        return errors or printed

    return run


def test_help_names_every_command(say: Callable[..., str]) -> None:
    text = say("--help")
    assert all(word in text for name in COMMANDS for word in name.split())


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_commands_lists_them(group: str, say: Callable[..., str]) -> None:
    names = [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]
    assert names
    for arguments in ([group], [group, "--help"], ["help", group]):
        assert re.findall(r"^  ([a-z-]+)  ", say(*arguments), re.MULTILINE) == names


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_help_fits_80_columns_and_has_value_meaning_and_default(
    name: str, say: Callable[..., str]
) -> None:
    text = say(*name.split(), "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<class|typing|Mapping|tuple|Config\b", text)
    entries = re.split(r"^  (?=--)", text, flags=re.MULTILINE)[1:]
    for option in chain.from_iterable(_groups(name).values()):
        (entry,) = (
            " ".join(entry.split())
            for entry in entries
            if entry.split()[0].rstrip(",") == option.flag
        )
        assert option.text in entry
        assert option.value in entry
        assert option.value == SWITCH or option.name == "config" or "default:" in entry.lower()
        assert all(f"{alias} " in entry for alias in option.aliases)


def test_the_help_with_every_option_of_lightning_fits_too(say: Callable[..., str]) -> None:
    text = say("train", "fit", "--help-all")
    assert "--trainer.gradient_clip_algorithm" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_has_two_spellings(flag: str, say: Callable[..., str]) -> None:
    assert say(flag) == f"hepflow {version('hepflow')}\n"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("ingst", "ingest"),
        ("store chek", "check"),
        ("check", "store check"),
        ("train ft", "fit"),
        ("ingest --inptu x", "--input"),
        ("ingest --ou x", "--output"),
        ("features --workers 2", "--cluster.workers"),
        ("features --cluster.jobs.wall-time 1", "--cluster.jobs.walltime"),
        ("features --cluster.slurm.wall-time 1", "--cluster.jobs.walltime"),
        ("features --definitions corected", "corrected"),
        ("bench --stages ingest,trian", "train"),
        ("train fit --data.batch_sise 3", "--data.batch-size"),
        ("train fit --ou x", "--output"),
    ],
)
def test_misspelt_and_abbreviated_words_are_refused_with_a_suggestion(
    arguments: str, meant: str, say: Callable[..., str]
) -> None:
    assert f"Did you mean {meant}?" in say(*arguments.split())


@pytest.mark.parametrize(
    ("command", "content", "expected"),
    [
        (
            "ingest",
            "target_partition_mb: lots",
            "target_partition_mb must be a whole number; got lots.",
        ),
        (
            "ingest",
            "target_partitoin_mb: 3",
            "no option target_partitoin_mb. Did you mean target_partition_mb?",
        ),
        ("ingest", "spark: {mastr: yarn}", "no option spark.mastr. Did you mean spark.master?"),
        (
            "features",
            "cluster: {kind: slrm}",
            "cluster.kind must be local, slurm, htcondor, pbs, lsf, sge, oar, spark or address; "
            "got slrm. Did you mean slurm?",
        ),
        ("evaluate", "runs: inclusive", "runs must be a list; got inclusive."),
        ("ingest", "target_partition_mb: 0", "target_partition_mb must be at least 1, got 0"),
        (
            "features",
            "cluster: {jobs: {max_jobs: 0}}",
            "cluster.jobs.max_jobs must be at least 1, got 0",
        ),
        (
            "bench",
            "output: s3://bucket/bench",
            "--output s3://bucket/bench must be a local path",
        ),
        (
            "demo",
            "events: 30",
            "events must be at least 50, otherwise an epoch is shorter than one batch; got 30",
        ),
        ("evaluate", "seed: -1", "seed must be at least 0, got -1"),
        (
            "train fit",
            "seed_everything: -1",
            "seed_everything must be from 0 to 4294967295, got -1",
        ),
        ("train fit", "threads: -1", "threads must be at least 0, got -1"),
        ("train fit", "trainer: {max_epochs: 0}", "trainer.max_epochs must be at least 1, got 0"),
        ("spark-train", "spark: {master: bogus}", "spark.master must be local"),
        ("ingest", "spark: {master: yarn", "not YAML near line 2."),
        ("ingest", "- a", "not a mapping. Write options with values, such as"),
        ("ingest", "", "the file is empty. Write options with values"),
        ("train fit", "# later", "not a mapping. Write options with values, such as"),
        (
            "train fit",
            "data: {batch_sise: 3}",
            "no option data.batch_sise. Did you mean data.batch_size?",
        ),
        (
            "train fit",
            "trainer: {max_epochs: few}",
            "trainer.max_epochs must be a whole number; got few.",
        ),
        (
            "train fit",
            "model: {net: {class_path: hepflow.models.inclusive.InclusiveNet, "
            "init_args: {cell: Foo}}}",
            "model.net.cell must be gru or lstm; got Foo.",
        ),
        (
            "train fit",
            "model: {net: {class_path: hepflow.models.hlf.HLF}}",
            "model.net: module 'hepflow.models.hlf' has no attribute 'HLF'.",
        ),
    ],
)
def test_an_error_in_a_file_names_the_file_and_the_key(
    command: str, content: str, expected: str, tmp_path: Path, say: Callable[..., str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content + "\n")
    message = say(*command.split(), "--config", str(file))
    assert message.startswith(f"hepflow: error: {file}: {expected}")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("command", ["ingest", "train fit"])
def test_a_binary_file_is_refused_as_configuration(
    command: str, tmp_path: Path, say: Callable[..., str]
) -> None:
    file = tmp_path / "events.root"
    file.write_bytes(b"root\x00\x00\xf5\x1a")
    assert say(*command.split(), "--config", str(file)).startswith(
        f"hepflow: error: {file}: not a YAML file"
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (
            "--model.net",
            "Foo",
            "--model.net must be a class, such as hepflow.models.hlf.HLFNet; got Foo. ",
        ),
        (
            "--model.net.cell",
            "gru",
            "--model.net.cell: hepflow.HLFNet has no such option. ",
        ),
        ("--model.net.hidden", "few", "--model.net.hidden must be a list; got few. "),
        ("--trainer.callbacks", "Foo", "--trainer.callbacks must be a class, "),
        (
            "--trainer.logger.save_dir",
            "Foo",
            "--trainer.logger.save_dir: --trainer.logger has options once it is a class, such as ",
        ),
        (
            "--trainer.callbacks.monitor",
            "x",
            "--trainer.callbacks.monitor: --trainer.callbacks has options once it is a class, ",
        ),
        (
            "--model.net.foo.bar",
            "1",
            "--model.net.foo.bar: hepflow.HLFNet has no such option. ",
        ),
        ("--data.balance.qcd", "x", "--data.balance must be equal or natural or a number; got x. "),
    ],
)
def test_an_error_about_a_class_names_its_option(
    option: str, value: str, expected: str, say: Callable[..., str]
) -> None:
    assert say("train", "fit", option, value).startswith(f"hepflow: error: {expected}")


def test_an_option_on_the_command_line_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task_mb: 2\n")
    with pytest.raises(ConfigError, match=r"^task_mb must be at least 1, got 0$"):
        parse("features", ["--config", str(file), "--task-mb", "0"])


def test_names_given_by_the_user_keep_their_dashes() -> None:
    config = parse(
        "ingest",
        [
            "--samples.my-class",
            "[a-b]",
            "--spark.driver-memory",
            "1g",
            "--spark.conf.some-name",
            "1",
        ],
    )
    assert config.samples["my-class"] == ("a-b",)
    assert (config.spark.driver_memory, config.spark.conf) == ("1g", {"some-name": "1"})


def test_spark_s_properties_of_several_files_and_options_are_merged(tmp_path: Path) -> None:
    """The last one wins, and null removes one, also one that hepflow sets."""
    for name, conf in {
        "site": {"spark.a": "1", "spark.b": "x y", "spark.c": "3", "spark.d": "null"}
        | {"spark.day": date(2026, 1, 2)},
        "mine": {"spark.b": "2", "spark.c": None, "spark.ui.showConsoleProgress": None},
        "none": None,
    }.items():
        text = {"target_partition_mb": 7} | ({"spark": {"conf": conf}} if conf else {})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(text))
    files = {name: str(tmp_path / f"{name}.yaml") for name in ("site", "mine", "none")}
    words = ["--config", files["site"], "--spark.conf.spark.e", "5", f"--config={files['mine']}"]
    words += ["--config", files["none"], "--spark.conf.spark.d=null", "--spark.conf.spark.f=6"]
    merged = {"spark.a": "1", "spark.b": "2", "spark.c": None, "spark.d": None}
    merged["spark.day"] = "2026-01-02"  # YAML makes a date of it
    merged |= {"spark.e": "5", "spark.f": "6", "spark.ui.showConsoleProgress": None}
    config = parse("ingest", words)
    assert dict(config.spark.conf) == merged
    assert config.target_partition_mb == 7
    with pytest.raises(ConfigError, match=r"site\.yaml: no option "):
        parse("features", ["--config", files["site"]])
    spark = pytest.importorskip("hepflow.engines.spark", reason="needs hepflow[ingest]")
    found = spark.properties(config.spark)
    assert {name: found.get(name) for name in merged} == merged
    assert None not in found.values()
    assert "spark.ui.showConsoleProgress" in spark.properties(SparkConfig())


def test_the_properties_of_two_sessions_of_spark_are_merged_apart(tmp_path: Path) -> None:
    """`hepflow score` has one for topics, and one for Dask workers."""
    site = {"spark": {"conf": {"spark.a": "1"}}}
    site["cluster"] = {"kind": "spark", "spark": {"master": "yarn", "conf": {"spark.b": "2"}}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    words = ["--config", str(tmp_path / "site.yaml"), "--cluster.spark.conf.spark.c-d", "3"]
    words += ["--spark.conf.spark.e", "4", "--cluster.spark.conf.spark.b=null"]
    config = parse("score", words)
    assert config.cluster.spark.conf == {"spark.b": None, "spark.c-d": "3"}
    assert config.spark.conf == {"spark.a": "1", "spark.e": "4"}
    assert (config.cluster.spark.master, config.spark.master) == ("yarn", "local[*]")
    with pytest.raises(ConfigError, match=r"^cluster\.spark\.master must be local\[N\]"):
        parse("score", ["--cluster.spark.master", "bogus"])


def test_a_list_has_commas_or_brackets() -> None:
    for runs in ("hlf,inclusive", "[hlf, inclusive]"):
        assert parse("evaluate", ["--runs", runs]).runs == ("hlf", "inclusive")
    config = parse("evaluate", ["--runs", "inclusive", "--events=-12,34", "--targets=0.9"])
    assert (config.runs, config.events, config.targets) == (("inclusive",), (-12, 34), (0.9,))


def test_help_loads_nothing_heavy() -> None:
    """All in one process, one after the other."""
    commands = [
        ["--help"],
        ["--version"],
        *([*name.split(), "--help"] for name in (*CONFIGURED, "train", "train fit")),
        ["completion", "bash"],
    ]
    code = f"""
import sys
from hepflow.cli import main
for arguments in {commands!r}:
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, arguments
    heavy = [module for module in {HEAVY!r} if module in sys.modules]
    assert not heavy, (arguments, heavy)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_java_starts_before_the_imports_of_a_stream(tmp_path: Path) -> None:
    """The model is missing, which ends the command after its imports."""
    pytest.importorskip("pyspark")
    pytest.importorskip("confluent_kafka")
    program = tmp_path / "jdk" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n")
    program.chmod(0o755)
    code = """
import sys
def note(event, arguments):
    if event == "subprocess.Popen":
        early = {"numba", "awkward", "onnxruntime", "distributed"} & {*sys.modules}
        print(arguments[1][0].rpartition("/")[2], *sorted(early))
sys.addaudithook(note)
from hepflow.cli import main
main("score --stream --input kafka://localhost:1/x --model none.onnx".split())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "JAVA_HOME": str(tmp_path / "jdk")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "none.onnx: no model here" in done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first == "java", "for its version, before anything is imported"
    assert second.startswith("spark-submit"), "in a thread"


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("completion", "bash")])
def test_a_closed_pipe_is_no_failure(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "hepflow", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_only_a_closed_pipe_counts_as_closed() -> None:
    reader, writer = os.pipe()
    assert not _is_closed(writer)
    os.close(reader)
    assert _is_closed(writer)
    os.close(writer)


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.4])
def test_ctrl_c_during_start_up_gives_no_traceback(seconds: float) -> None:
    """The child enables SIGINT: a shell may have disabled it for background processes."""
    enable = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"{enable}; from hepflow.__main__ import run; print('begins', flush=True); run()",
        "ingest",
        "--input",
        "nothing",
        "--spark.master",
        "bogus",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in {INTERRUPTED, 2}  # or it was faster
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("frobnicate",), "no command 'frobnicate'"),
        (("ingest", "--inptu", "x"), "no option --inptu"),
        (("ingest", "--target_partition_mb", "0"), "target_partition_mb must be at least 1"),
        (("features", "--definitions", "wrong"), "corrected"),
        (("ingest", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("train", "fitt"), "no command 'train fitt'"),
        (("completion", "tcsh"), "There are: bash, zsh"),
        (("bench", "--output", "s3://bucket/bench"), "must be a local path"),
        (("demo", "--output", "/dev/null/x"), "/dev/null/x: /dev/null is a file, not a folder"),
        (("demo", "--output", "/dev/null"), "/dev/null: "),
    ],
)
def test_an_error_is_one_line_and_exit_2(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed, errors = capsys.readouterr()
    assert (end.value.code, printed) == (2, "")
    assert len(errors.strip().splitlines()) == 1
    assert expected in errors


@pytest.mark.parametrize("given", ["~/x", "$HOME/x", "${HOME}/x"])
@pytest.mark.parametrize("how", ["word", "file"])
@pytest.mark.parametrize(
    ("command", "option"),
    [("ingest", "input"), ("ingest", "output"), ("score", "model"), ("features", "output")],
)
def test_home_and_variables_in_paths_are_filled_in(
    given: str, how: str, command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell does it for `--output ~/x`, but not for `--output=~/x`, nor in a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "config.yaml"
    file.write_text(f"{option}: {given}")
    words = [f"--{option}={given}"] if how == "word" else ["--config", str(file)]
    assert getattr(parse(command, words), option) == tmp_path / "x"


def test_a_url_takes_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "server//data")
    assert parse("ingest", ["--input", "root://$WHERE"]).input == "root://server//data"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("$NOWHERE/x", "$NOWHERE/x: no variable NOWHERE in the environment. Set it, or"),
        ("${NO_WHERE}/x", "no variable NO_WHERE in the environment"),
        ("~no-such-user/x", "~no-such-user/x: no home of this user. Write the path in full."),
    ],
)
@pytest.mark.parametrize("option", ["input", "output"])
def test_a_path_that_cannot_be_filled_in_is_refused(
    given: str, message: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["ingest", f"--{option}={given}"])
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_path_that_has_such_a_name_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$HOME").mkdir()
    assert parse("ingest", ["--input", "$HOME"]).input == Path("$HOME")


@pytest.mark.parametrize("name", CONFIGURED)
def test_print_config_reads_back(name: str, tmp_path: Path, say: Callable[..., str]) -> None:
    required = {
        "import-cern": ("--train", "a.parquet", "--test", "b.parquet"),
        "store compact": ("--input", "a.zarr", "--output", "b.zarr"),
        "compare": ("a", "b"),
    }.get(name, ())
    file = tmp_path / "config.yaml"
    file.write_text(say(*name.split(), *required, "--print-config"))
    assert parse(name, ["--config", str(file)]) == parse(name, required)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_file_holds_the_defaults(path: Path) -> None:
    assert yaml.safe_load(path.read_text()), f"{path} is empty"
    assert parse(path.stem, ["--config", str(path)]) == parse(path.stem, [])


@pytest.mark.parametrize("path", sorted((CONFIGS / "spark").glob("*.yaml")), ids=lambda p: p.name)
def test_a_spark_overlay_leaves_the_rest_of_ingest_alone(path: Path) -> None:
    config = parse("ingest", ["--config", str(CONFIGS / "ingest.yaml"), "--config", str(path)])
    assert config.spark != parse("ingest", []).spark
    assert replace(config, spark=parse("ingest", []).spark) == parse("ingest", [])


@pytest.mark.parametrize("stage", ["features", "score", "tune"])
@pytest.mark.parametrize("path", sorted((CONFIGS / "cluster").glob("*.yaml")), ids=lambda p: p.name)
def test_an_overlay_of_a_cluster_leaves_the_rest_of_a_stage_alone(stage: str, path: Path) -> None:
    config = parse(stage, ["--config", str(CONFIGS / f"{stage}.yaml"), "--config", str(path)])
    assert config.cluster != parse(stage, []).cluster
    assert replace(config, cluster=parse(stage, []).cluster) == parse(stage, [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), {"ingest", "train", "store", "completion"}),
        (("st",), {"store"}),
        (("store", ""), {"check", "info"}),
        (("train", "fit", "--data.st"), {"--data.store"}),
        (("features", "--cluster.jobs.wa"), {"--cluster.jobs.walltime"}),
        (("features", "--cluster.slurm.wa"), set()),
        (("features", "--definitions", ""), {"corrected", "reference"}),
        (("compare", "--max"), {"--max-auc", "--max-ks"}),
    ],
)
def test_bash_completes_commands_options_and_values(
    completion: Path, words: tuple[str, ...], expected: set[str]
) -> None:
    line = " ".join(f"'{word}'" for word in ("hepflow", *words))
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_hepflow; "
    ask += "printf '%s\\n' \"${COMPREPLY[@]}\""
    completed = subprocess.run(
        ["bash", "-c", f"source '{completion}'; {ask}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert expected <= {word.strip() for word in completed.stdout.splitlines()}


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("completion") / "hepflow.bash"
    with script.open("w") as stdout:
        subprocess.run(
            [sys.executable, "-m", "hepflow", "completion", "bash"],
            stdout=stdout,
            check=True,
            timeout=60,
        )
    return script


def test_zsh_has_a_script_too_with_the_purpose_of_each_group(
    say: Callable[..., str],
) -> None:
    script = say("completion", "zsh")
    assert script.startswith("#compdef hepflow")
    assert all(f"{name}:'{about}'" in script for name, about in GROUPS.items())


def test_options_after_a_file_win(tmp_path: Path) -> None:
    file = tmp_path / "ingest.yaml"
    file.write_text("target_partition_mb: 3\nspark: {master: yarn}\n")
    config = parse("ingest", ["--config", str(file), "--target_partition_mb", "4"])
    assert (config.target_partition_mb, config.spark.master) == (4, "yarn")


def test_dashes_equal_underscores_and_a_switch_needs_no_value() -> None:
    config = parse(
        "ingest",
        ["--retry-quarantined", "--target-partition-mb", "7", "--overwrite=false", "--tree", "a-b"],
    )
    given = config.retry_quarantined, config.target_partition_mb, config.overwrite, config.tree
    assert given == (True, 7, False, "a-b")


def test_the_errors_of_a_config_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="splits must be train, val and test"):
        parse("features", ["--splits", "{train: 0.9, val: 0.2, test: 0.2}"])


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (JobsConfig, {"max_jobs": 0}, "cluster.jobs.max_jobs must be at least 1, got 0"),
        (FeaturesConfig, {"keep_bits": 24}, "keep_bits must be at most 23, got 24"),
        (ScoreConfig, {"poll_s": float("nan")}, "poll_s must be above 0, got nan"),
        (ScoreConfig, {"mix": {"qcd": -1.0}}, "mix must be at least 0, got -1.0"),
        (EvaluateConfig, {"targets": (0.9, 1.0)}, "targets must be below 1, got 1.0"),
        (EvaluateConfig, {"targets": ()}, "targets must hold at least one value"),
    ],
)
def test_limits_hold_in_python_too(
    config: Callable[..., object], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        config(**values)


def test_the_shipped_configurations_are_found_outside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = [
        "--config",
        "mine.yaml",
        "--input",
        "configs/ingest.yaml",
        "--config=configs/nothing.yaml",
    ]
    found = with_shipped(
        ["--config", "configs/train/hlf.yaml", "--config=configs/spark/yarn.yaml", *own]
    )
    assert found == [
        "--config",
        str(shipped("train/hlf.yaml")),
        f"--config={shipped('spark/yarn.yaml')}",
        *own,
    ]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "features.yaml").touch()
    assert with_shipped(["--config", "configs/features.yaml"]) == [
        "--config",
        "configs/features.yaml",
    ]


@pytest.mark.parametrize("error", [FileNotFoundError("lock"), SystemExit(1)])
def test_an_error_as_a_library_cleans_up_after_ctrl_c_is_an_interrupt(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Optuna removes the lock of its journal again, for instance."""

    def interrupted(_: object) -> None:
        try:
            try:
                raise KeyboardInterrupt
            finally:
                int("not a number")
        except ValueError as other:
            raise error from other

    monkeypatch.setattr("hepflow.cli._dispatch", interrupted)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("hepflow: interrupted.")


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_only_the_first_of_several_interrupted_processes_prints(
    rank: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(SystemExit) as end:
        _interrupted()
    assert end.value.code == INTERRUPTED
    assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.slow
@pytest.mark.s3
def test_a_store_without_credentials_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    importlib.import_module("s3fs").S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(patience, "_ANSWERED", {"s3://bucket"})  # while there were credentials
    monkeypatch.setattr(patience, "PATIENCE_S", 1e6)
    with pytest.raises(SystemExit) as end:
        main(["store", "info", "--input", "s3://bucket/features.zarr"])
    errors = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert errors.startswith("hepflow: error: no valid credentials (Unable to locate credentials)")
    assert len(errors.splitlines()) == 1


def test_a_full_disk_that_ends_a_thread_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of TensorBoard's writer; anything else that ends a thread is a bug, and shown."""
    shown = list[threading.ExceptHookArgs]()
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def run(thread: Callable[[], object]) -> None:
        with _with_threads():
            running = threading.Thread(target=thread)
            running.start()
            running.join()

    with pytest.raises(OSError, match="No space left on device"):
        run(lambda: Path("/dev/full").write_text("more"))
    assert not shown
    run([].pop)
    assert [one.exc_type for one in shown] == [IndexError]
