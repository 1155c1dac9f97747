"""A file and a model that the tests of all kinds of streams share."""

from pathlib import Path

import pytest

from tests.support.toy_trigger import TEMPLATE_EVENTS, untrained, write_raw


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ROOT file, of which copies with other UUIDs are made."""
    path = tmp_path_factory.mktemp("template") / "template.root"
    return write_raw(path, [TEMPLATE_EVENTS], seed=1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), template)
