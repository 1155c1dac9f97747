"""The command line: fast, explains itself, one line for a mistake."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hepflow.cli import COMMANDS, parse
from hepflow.config import shipped, with_shipped
from hepflow.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
HEAVY = ("torch", "pyspark", "dask", "distributed", "numba", "uproot", "awkward", "matplotlib")


def hepflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hepflow", *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_command() -> None:
    result = hepflow("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in [*COMMANDS, "train", "spark-train", "completion"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    result = hepflow(*name.split(), "--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    for option in COMMANDS[name].config.__dataclass_fields__:
        assert f"--{option}" in text
        after = text.split(f"--{option} {option.upper()}")
        assert len(after) < 2 or not after[-1].strip().startswith("(type"), f"{name} --{option} has no help"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        *((*name.split(), "--help") for name in COMMANDS),
        ("train", "--help"),
        ("train", "fit", "--help"),
        ("completion", "bash"),
    ],
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom hepflow.cli import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print(heavy, file=sys.stderr); sys.exit(bool(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("frobnicate",), "no command 'frobnicate'"),
        (("ingest", "--inptu", "x"), "--inptu"),
        (("ingest", "--target_partition_mb", "0"), "target_partition_mb must be at least 1"),
        (("features", "--definitions", "wrong"), "corrected"),
        (("ingest", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("train", "fitt"), "no command 'train fitt'"),
        (("completion", "tcsh"), "There are: bash, zsh"),
        (("features", "--output", "s3://bucket/f.zarr"), "is no path of a mounted file system"),
        (("demo", "--output", "/dev/null/x"), "/dev/null/x: /dev/null is a file, not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments: tuple[str, ...], expected: str) -> None:
    result = hepflow(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert expected in result.stderr


def test_a_misspelt_key_in_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ingest.yaml"
    file.write_text("target_partitoin_mb: 3\n")
    result = hepflow("ingest", "--config", str(file))
    assert result.returncode == 2
    assert "target_partitoin_mb" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_print_config_reads_back(name: str, tmp_path: Path) -> None:
    required = ("--train", "a.parquet", "--test", "b.parquet") if name == "import-cern" else ()
    printed = hepflow(*name.split(), *required, "--print_config")
    assert printed.returncode == 0
    file = tmp_path / "config.yaml"
    file.write_text(printed.stdout)
    assert parse(name, ["--config", str(file)]) == parse(name, required)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_file_is_parsed_and_says_the_defaults(path: Path) -> None:
    assert yaml.safe_load(path.read_text()), f"{path} is empty"
    assert parse(path.stem, ["--config", str(path)]) == parse(path.stem, [])


@pytest.mark.parametrize("path", sorted((CONFIGS / "spark").glob("*.yaml")), ids=lambda p: p.name)
def test_a_spark_overlay_leaves_the_rest_of_ingest_alone(path: Path) -> None:
    config = parse("ingest", ["--config", str(CONFIGS / "ingest.yaml"), "--config", str(path)])
    assert config.spark != parse("ingest", []).spark
    assert replace(config, spark=parse("ingest", []).spark) == parse("ingest", [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), {"ingest", "train", "store", "completion"}),
        (("st",), {"store"}),
        (("store", ""), {"check", "info"}),
        (("train", "fit", "--data.st"), {"--data.store"}),
        (("features", "--cluster.slurm.wa"), {"--cluster.slurm.walltime"}),
        (("features", "--definitions", ""), {"corrected", "reference"}),
    ],
)
def test_bash_completes_commands_options_and_values(completion: Path, words: tuple[str, ...], expected: set[str]) -> None:
    line = " ".join(f"'{word}'" for word in ("hepflow", *words))
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_hepflow; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    told = subprocess.run(["bash", "-c", f"source {completion}; {ask}"], capture_output=True, text=True, check=True, timeout=60)
    assert expected <= {word.strip() for word in told.stdout.splitlines()}


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("completion") / "hepflow.bash"
    script.write_text(hepflow("completion", "bash").stdout)
    return script


def test_zsh_has_a_script_too() -> None:
    assert hepflow("completion", "zsh").stdout.startswith("#compdef hepflow")


def test_options_after_a_file_win(tmp_path: Path) -> None:
    file = tmp_path / "ingest.yaml"
    file.write_text("target_partition_mb: 3\nspark: {master: yarn}\n")
    config = parse("ingest", ["--config", str(file), "--target_partition_mb", "4"])
    assert (config.target_partition_mb, config.spark.master) == (4, "yarn")


def test_dashes_are_as_good_as_underscores_and_a_switch_needs_no_value() -> None:
    config = parse("ingest", ["--retry-quarantined", "--target-partition-mb", "7", "--estimate=false", "--tree", "a-b"])
    assert (config.retry_quarantined, config.target_partition_mb, config.estimate, config.tree) == (True, 7, False, "a-b")


def test_the_errors_of_a_config_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="splits must be train, val and test"):
        parse("features", ["--splits", "{train: 0.9, val: 0.2, test: 0.2}"])


def test_the_shipped_configurations_are_found_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["--config", "mine.yaml", "--input", "configs/ingest.yaml", "--config=configs/nothing.yaml"]
    found = with_shipped(["--config", "configs/train/hlf.yaml", "--config=configs/spark/yarn.yaml", *own])
    assert found == ["--config", str(shipped("train/hlf.yaml")), f"--config={shipped('spark/yarn.yaml')}", *own]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "features.yaml").touch()
    assert with_shipped(["--config", "configs/features.yaml"]) == ["--config", "configs/features.yaml"]
