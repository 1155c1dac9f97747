"""Options of stores by URL: the longest beginning counts, and secrets are refused."""

from typing import Any

import pytest

from hepflow.errors import ConfigError
from hepflow.system.places import place
from hepflow.system.store_options import STORAGE, configure, of_this_run, options_of


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE, "{}")


def test_the_longest_beginning_counts_and_names_are_not_cut() -> None:
    configure({"s3://a": {"anon": True}})
    configure({"s3://a/b": {"anon": False}})
    found = [options_of(f"s3://{path}") for path in ("a", "a/c", "a/b", "a/b/c", "a/bb", "ab")]
    assert [one.get("anon") for one in found] == [True, True, False, False, True, None]
    assert STORAGE in of_this_run()


@pytest.mark.parametrize(
    "options",
    [
        {"key": "abc"},
        {"secret": "abc"},
        {"client_kwargs": {"aws_secret_access_key": "abc"}},
        {"client_kwargs": {"aws_session_token": "abc"}},
        {"password": "abc"},
    ],
)
def test_a_secret_is_refused_and_not_shown(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="this is a secret") as caught:
        configure({"s3://a": options})
    assert "abc" not in str(caught.value)
    assert options_of("s3://a") == {}


@pytest.mark.parametrize("storage", [{"bucket": {"anon": True}}, {"s3://a": "anon"}])
def test_what_is_no_url_with_options_is_refused(storage: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a URL with its options"):
        configure(storage)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="a URL with a password") as caught:
        place("s3://me:abc@bucket/x")
    assert "abc" not in str(caught.value)


def test_a_path_takes_the_options_that_its_process_has() -> None:
    pytest.importorskip("s3fs")
    path = place("s3://bucket/x")
    configure({"s3://bucket": {"endpoint_url": "http://127.0.0.1:1", "anon": True}})
    assert path.fs.endpoint_url == "http://127.0.0.1:1"
    assert (place("s3://bucket") / "y").fs.anon
    assert not place("s3://other/x").fs.anon
