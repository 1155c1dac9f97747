"""Options of remote stores by URL, such as the endpoint of a site's S3, for all processes of a run.

They come from the configuration and go to processes on this and other machines in a variable of the
environment. So they hold no secrets, but references to them, which each process follows.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import fsspec

from hepflow.errors import ConfigError
from hepflow.system import secret

STORAGE, WORK_DIR = "HEPFLOW_STORAGE", "HEPFLOW_WORK_DIR"


def configure(storage: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the options of stores by the beginnings of their URLs; a secret is a ConfigError."""
    both = dict(_configured(os.environ.get(STORAGE, "{}")))
    for url, options in storage.items():
        if "://" not in url or not isinstance(options, Mapping):
            example = "storage: {s3://bucket: {endpoint_url: https://s3.site.edu}}"
            raise ConfigError(f"storage: {url} must be a URL with its options, such as `{example}`")
        both[url] = _kept(options, url)
    if storage:
        os.environ[STORAGE] = json.dumps(both, sort_keys=True)


def options_of(url: str) -> dict[str, Any]:
    """Return the options of a URL, with secrets: those of the longest beginning that is known."""
    known = _configured(os.environ.get(STORAGE, "{}"))
    fitting = [start for start in known if f"{url}/".startswith(f"{start.rstrip('/')}/")]
    start = max(fitting, key=len, default="")
    return secret.resolved(known[start], f"storage: {start}") if fitting else {}


def apply_to_all(url: str) -> None:
    """Make the options of a URL the defaults of its protocol, for libraries that open it too."""
    protocol = url.partition("://")[0]
    if options := options_of(url):
        fsspec.config.conf[protocol] = {**fsspec.config.conf.get(protocol, {}), **options}


def of_this_run() -> dict[str, str]:
    """Return the variables that processes of this run on other machines need."""
    return {name: os.environ[name] for name in (STORAGE, WORK_DIR) if name in os.environ}


@cache
def _configured(text: str) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = json.loads(text)
    return known


def _kept(options: Mapping[str, Any], url: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in options.items():
        kept[name] = _kept(value, url) if isinstance(value, Mapping) else value
        if secret.is_secret(name):
            if not secret.is_reference(value):
                why = "this is a secret, and other processes get a copy"
                raise ConfigError(f"storage: {url}: {name}: {why}. Give {secret.ADVICE}.")
            kept[name] = secret.absolute(value)
    return kept
