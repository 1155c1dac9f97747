"""Options of stores by URL: the longest beginning counts, and secrets are refused."""

import pickle
from typing import Any

import fsspec
import pytest
from upath import UPath

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


class Shelf(fsspec.AbstractFileSystem):
    """A file system that another package might bring: it does not open without its option."""

    protocol = "shelf"

    def __init__(self, label: str, **options: Any) -> None:
        super().__init__(**options)
        self.label = label

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if path == "down":
            raise PermissionError(path)
        return {"name": path, "size": 3, "type": "file"}


def test_a_protocol_of_another_package_takes_its_options_also_in_another_process() -> None:
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    path = place("shelf://down")
    with pytest.raises(TypeError, match="label"):
        path.exists()
    configure({"shelf://": {"label": "red"}})
    for one in (path, pickle.loads(pickle.dumps(path))):
        assert str(one) == "shelf://down"
        assert one.fs.label == "red"
        with pytest.raises(PermissionError):  # and it is not taken for a missing file
            one.exists()
    assert (place("shelf://a") / "b").is_file()


@pytest.mark.parametrize("url", ["gs://b/x", "az://c/x", "abfs://c/x", "s3://b/x", "hdfs://h/x"])
def test_a_store_of_a_known_kind_is_asked_for_its_options(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(UPath, "_fs_factory", lambda *names: given.update(names[2]))
    configure({url.rpartition("/")[0]: {"use_listings_cache": False}})
    _ = (UPath(url) / "y").fs
    assert given["use_listings_cache"] is False
