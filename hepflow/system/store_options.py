"""Options of remote stores by URL, such as the endpoint of a site's S3, for all processes of a run.

They come from the configuration and go to processes on this and other machines in a variable of the
environment. So they hold no secrets: those are read where each store's own tools look for them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import fsspec

from hepflow.errors import ConfigError

STORAGE, WORK_DIR = "HEPFLOW_STORAGE", "HEPFLOW_WORK_DIR"
_SECRET = re.compile("secret|passw|token|credential|access_key|^key$", re.IGNORECASE)


def configure(storage: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the options of stores by the beginnings of their URLs; a secret is a ConfigError."""
    for url, options in storage.items():
        if "://" not in url or not isinstance(options, Mapping):
            example = "storage: {s3://bucket: {endpoint_url: https://s3.site.edu}}"
            raise ConfigError(f"storage: {url} must be a URL with its options, such as `{example}`")
        if secret := next((name for name in _names(options) if _SECRET.search(name)), None):
            why = "this is a secret, and a configuration is copied into records"
            advice = "Put it into ~/.aws/credentials (and give `profile: NAME`) or the environment."
            raise ConfigError(f"storage: {url}: {secret}: {why}. {advice}")
    if storage:
        both = {**_configured(os.environ.get(STORAGE, "{}")), **storage}
        os.environ[STORAGE] = json.dumps(both, sort_keys=True)


def options_of(url: str) -> dict[str, Any]:
    """Return the options of a URL: those of the longest beginning that is configured."""
    known = _configured(os.environ.get(STORAGE, "{}"))
    fitting = [start for start in known if f"{url}/".startswith(f"{start.rstrip('/')}/")]
    return dict(known[max(fitting, key=len)]) if fitting else {}


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


def _names(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from _names(value)
