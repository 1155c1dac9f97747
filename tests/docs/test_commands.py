"""hepflow accepts every command, option, configuration, script and extra in the documents."""

import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from hepflow.cli import COMMANDS, parse
from hepflow.config.tools import DemoConfig
from hepflow.tools.demo import EVENTS, _steps

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text()
    for path in sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
STAGE_OF_SCRIPT = {"train": ["train", "fit"]}
"""Batch scripts that are not named after their command."""
SBATCH = (
    "--signal --time --requeue --ntasks-per-node --gres --gpus-per-node --gpus-per-task "
    "--mem-per-cpu"
)
OTHERS = {
    "--": "ends the options of sbatch",
    **dict.fromkeys(SBATCH.split(), "sbatch"),
    **dict.fromkeys(("--conf", "--files", "--principal", "--keytab"), "spark-submit"),
    "--wait": "slurm/pipeline.sh",
}
"""Options of other programs that the pages name, and the program."""


def blocks(text: str) -> Iterator[str]:
    """Yield the commands in the code blocks of a page, one per line."""
    for language, body in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        if language in {"", "bash", "console"}:
            yield from (
                line.strip().removeprefix("$ ") for line in body.replace("\\\n", " ").splitlines()
            )


def inline(text: str) -> Iterator[str]:
    """Yield the code in sentences and tables."""
    yield from re.findall(
        r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    )


def calls(line: str) -> Iterator[list[str]]:
    """Yield the arguments that a shell line passes to hepflow; check the scripts that it names."""
    words = shlex.split(re.sub(r"(^|\s)#.*", "", line).replace("$net", "hlf"))
    if not words:
        return
    program = words[0]
    if program == "hepflow":
        yield words[1:]
    elif program == "sbatch":
        script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        assert (ROOT / words[script]).is_file(), line
        stage = Path(words[script]).stem
        yield [*STAGE_OF_SCRIPT.get(stage, [stage]), *words[script + 1 :]]
    elif program == "slurm/pipeline.sh":
        starts = [i for i, word in enumerate(words) if word.endswith(":")]
        for start, stop in pairwise([*starts, len(words)]):
            stage, segment = words[start].removesuffix(":"), words[start + 1 : stop]
            assert (ROOT / "slurm" / f"{stage}.sbatch").is_file(), line
            yield [
                *STAGE_OF_SCRIPT.get(stage, [stage]),
                *(segment[segment.index("--") + 1 :] if "--" in segment else []),
            ]
    elif program == "spark-submit":
        send_along(words[words.index("--files") + 1].split(","))
        yield words[next(i for i, word in enumerate(words) if word.endswith("__main__.py")) + 1 :]
    elif program == "make":
        named = {word for word in words[1:] if "=" not in word}
        assert named <= TARGETS, f"{line}: no such target"
    elif program.startswith("python") and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), line


def send_along(files: list[str]) -> None:
    """Copy files into the working folder of the driver, as spark-submit does."""
    for file in files:
        if "/" in file:
            Path(Path(file).name).write_bytes(Path(file).read_bytes())


def in_blocks() -> list[tuple[str, str]]:
    return [(name, line) for name, text in PAGES.items() for line in blocks(text) if line]


def in_sentences() -> list[tuple[str, str]]:
    programs = r"(hepflow [a-z-]|sbatch .*\.sbatch|make [a-z]|python \S+\.py)"
    return [
        (name, code)
        for name, text in PAGES.items()
        for code in inline(text)
        if re.match(programs, code)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with hepflow's configurations and those that the pages name."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("configs", "slurm", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    named = re.compile(r"^```yaml\n# ([\w-]+\.yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for name, example in named.findall("\n".join(PAGES.values())):
        (folder / name).write_text(example)
    (folder / "tune").mkdir()
    (folder / "tune" / "best.yaml").write_text("model: {lr: 0.001}\n")
    return folder


def accept(arguments: list[str]) -> None:
    """Parse the arguments as hepflow does; raises a ConfigError if they are invalid."""
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name.startswith("train "):
        trained(name.removeprefix("train "), *rest)
    elif name == "train":
        raise AssertionError(f"hepflow train {rest[0]}: no such command")
    elif name == "spark-train":
        trained("fit", *rest)
    elif name == "completion":
        assert rest in (["bash"], ["zsh"])
    elif name not in {"help", "--help", "--version", "-V"}:
        parse(name, rest)


@functools.cache
def trained(command: str, *options: str) -> Any:
    """Return the configuration of a training; options of Spark are valid too."""
    spark_process = pytest.importorskip(
        "hepflow.train.spark.job", reason="the options of a training are Lightning's"
    )

    class OptionsOnly(spark_process.SparkCLI):  # type: ignore[misc, name-defined]
        """Parses its options, and stops."""

        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_classes(self) -> None:
            pass

    return OptionsOnly(command, options)


@pytest.mark.parametrize(
    ("page", "line"), list(dict.fromkeys(in_blocks())), ids=lambda text: text[:60]
)
def test_a_command_in_a_block_is_accepted(
    page: str, line: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for arguments in calls(line):
        accept(arguments)


@pytest.mark.parametrize("code", sorted({code for _, code in in_sentences()}))
def test_a_command_in_a_sentence_is_accepted(
    code: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for arguments in calls(code):
        if any(argument.startswith("-") for argument in arguments):
            accept(arguments)
        else:  # a command that is named only: its required options are missing
            known = {*COMMANDS, "train"}
            assert " ".join(arguments[:2]) in known or arguments[0] in known


@pytest.mark.parametrize("page", PAGES)
def test_an_option_in_a_sentence_exists(page: str) -> None:
    named = {code.split()[0].split("=")[0] for code in inline(PAGES[page]) if code.startswith("--")}
    spark_s_own = re.compile(r"^(--(?:cluster\.)?spark\.conf)\..*")
    named = {spark_s_own.sub(r"\1", name) for name in named}
    spelt = {name if name in OTHERS else "--" + name[2:].replace("-", "_") for name in named}
    assert sorted(spelt - known_options() - OTHERS.keys()) == []


@pytest.mark.parametrize("page", PAGES)
def test_options_are_spelt_with_dashes_as_in_the_help(page: str) -> None:
    assert re.findall(r"(?<![\w-])--[a-z][a-z.-]*_[\w.-]*", PAGES[page]) == []


@functools.cache
def known_options() -> set[str]:
    general = {"--help", "--print_config", "--config", "--seed", "--help_all"}
    defaults = trained("fit").parser.get_defaults().keys()  # of a Namespace, which is no mapping
    training = {"--" + name for name in defaults}
    return (
        general
        | training
        | {
            f"--{name}"
            for command in COMMANDS.values()
            if command.config
            for name in option_names(command.config)
        }
    )


def option_names(config: type, prefix: str = "") -> Iterator[str]:
    kinds = get_type_hints(config)
    for field in fields(config):
        yield prefix + field.name
        if is_dataclass(kinds[field.name]):
            yield from option_names(kinds[field.name], f"{prefix}{field.name}.")


@pytest.mark.parametrize("page", PAGES)
def test_the_extras_and_files_that_a_page_names_exist(page: str) -> None:
    text = PAGES[page]
    asked = {
        name
        for names in re.findall(r"(?:hepflow|\.)\[([a-z0-9,]+)\]'?", text)
        for name in names.split(",")
    }
    assert asked <= EXTRAS.keys()
    files = {
        code
        for code in inline(text)
        if re.fullmatch(r"(configs|slurm|benchmarks|tests|hepflow|docs)/[\w./-]+", code)
    }
    assert [
        name for name in sorted(files) if not (ROOT / name).exists() and "NAME" not in name
    ] == []


@pytest.mark.parametrize("size", EVENTS)
def test_the_demo_of_every_size_uses_options_that_exist(size: Any) -> None:
    for step in _steps(DemoConfig(size=size)):
        accept(list(step.arguments))


def test_every_command_is_in_the_readme() -> None:
    named = " ".join(inline(PAGES["README.md"]))
    trainings = {f"train {name}" for name in ("validate", "test", "predict", "find-lr")}
    assert [name for name in COMMANDS.keys() - trainings if f"hepflow {name}" not in named] == []
