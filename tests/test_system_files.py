"""An impossible output is reported before the work starts."""

from pathlib import Path

import pytest

from hepflow.config.tools import DemoConfig
from hepflow.errors import ConfigError, HepflowError
from hepflow.system.files import read_json
from hepflow.system.locks import exclusive
from hepflow.tools import demo

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ("", "FILE: is a file"),
        ("sub", "FILE/sub: .*FILE is a file"),
        ("a/b", "FILE/a/b: .*FILE is a file"),
    ],
)
def test_a_file_in_the_place_of_the_output_or_a_folder_above_it_is_named(
    tmp_path: Path, below: str, message: str
) -> None:
    place = tmp_path / "FILE" / below
    (tmp_path / "FILE").write_text("mine")
    with pytest.raises(ConfigError, match=message), exclusive(place):
        pass
    with pytest.raises(ConfigError, match=message):
        demo.run(DemoConfig(output=place))
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder that refuses new files")
@pytest.mark.parametrize("place", [Path("/proc/x"), Path("/proc/x/y")])
def test_a_place_where_nothing_can_be_made_is_named(place: Path) -> None:
    with (
        pytest.raises(ConfigError, match=f"{place}: cannot write to {place.parent}"),
        exclusive(place),
    ):
        pass
    with pytest.raises(ConfigError, match=f"{place}: cannot write to {place.parent}"):
        demo.run(DemoConfig(output=place))


def test_folders_made_for_an_output_that_stays_empty_are_removed_and_no_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    with exclusive(tmp_path / "mine" / "data" / "events"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    with exclusive(tmp_path / "mine" / "data" / "events"):
        (tmp_path / "mine" / "data" / "events").mkdir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
    with exclusive(tmp_path / "mine" / "data" / "events"):
        (tmp_path / "mine" / "data" / "other").touch()
    assert (tmp_path / "mine" / "data" / "other").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that is always full")
def test_the_error_of_a_full_disk_names_the_output(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'out'}'"),
        exclusive(tmp_path / "out"),
    ):
        Path("/dev/full").write_text("more")


def test_the_time_of_a_failed_stage_of_the_demo_counts_too(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    spent = []
    for _ in range(2):
        with pytest.raises(HepflowError, match="`hepflow simulate` failed"):
            demo.run(DemoConfig(output=tmp_path))
        spent.append(read_json(tmp_path / "timings.json")["simulate"]["unfinished"])
    assert 0 < spent[0] < spent[1]
