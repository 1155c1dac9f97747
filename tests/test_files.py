"""What stands in the way of an output is told before the work."""

from pathlib import Path

import pytest

from hepflow import demo
from hepflow.config_tools import DemoConfig
from hepflow.errors import ConfigError
from hepflow.locks import exclusive


@pytest.mark.parametrize(
    ("below", "told"), [("", "FILE: is a file"), ("sub", "FILE/sub: .*FILE is a file"), ("a/b", "FILE/a/b: .*FILE is a file")]
)
def test_a_file_where_the_output_or_a_folder_above_it_should_be_is_named(tmp_path: Path, below: str, told: str) -> None:
    place = tmp_path / "FILE" / below
    (tmp_path / "FILE").write_text("mine")
    with pytest.raises(ConfigError, match=told), exclusive(place):
        pass
    with pytest.raises(ConfigError, match=told):
        demo.run(DemoConfig(output=place))
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]
