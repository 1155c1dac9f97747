"""Markers of output folders, and outputs that no run replaces by accident."""

import pytest

from hepflow.data.output import read_marker, refuse_to_replace, write_marker
from hepflow.errors import ConfigError, DataError


def test_a_folder_has_no_marker_until_one_is_written(tmp_path):
    assert read_marker(tmp_path) is None
    assert read_marker(tmp_path / "nowhere") is None
    about = {"schema_version": 1, "classes": ["qcd", "ttbar"]}
    write_marker(tmp_path, about)
    assert read_marker(tmp_path) == about
    assert [path.name for path in tmp_path.iterdir()] == ["_hepflow.json"]


def test_a_marker_that_cannot_be_written_leaves_the_previous_one(tmp_path):
    write_marker(tmp_path, {"classes": ["qcd"]})
    with pytest.raises(TypeError):
        write_marker(tmp_path, {"classes": {"qcd"}})  # JSON has no sets
    assert read_marker(tmp_path) == {"classes": ["qcd"]}
    assert [path.name for path in tmp_path.iterdir()] == ["_hepflow.json"]


def test_a_damaged_marker_is_an_error(tmp_path):
    (tmp_path / "_hepflow.json").write_text('{"classes"')
    with pytest.raises(DataError, match=r"_hepflow\.json: not readable"):
        read_marker(tmp_path)


def test_an_output_of_the_same_settings_may_be_replaced(tmp_path):
    refuse_to_replace(tmp_path, "a dataset", {"seed": 1, "tree": "x"}, {"seed": 1, "tree": "x"})
    refuse_to_replace(tmp_path, "a dataset", {"seed": 1, "only before": 2}, {"seed": 1, "new": 3})


def test_an_output_of_other_settings_is_refused_with_the_values_of_both(tmp_path):
    before, now = {"seed": 1, "tree": "A", "n": 5}, {"tree": "B", "n": 5, "seed": 2}
    with pytest.raises(ConfigError) as error:
        refuse_to_replace(tmp_path, "a dataset", before, now)
    assert str(error.value).startswith(f"{tmp_path} holds a dataset")
    assert "tree A (now B), seed 1 (now 2)." in str(error.value)
    assert "--overwrite" in str(error.value)
