"""Loggers of a training that need a key, as those of services on the web do."""

import hashlib
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger


def digest(text: str) -> str:
    """Return a hash."""
    return hashlib.sha256(text.encode()).hexdigest()


class KeyedLogger(Logger):
    """It writes hashes of its key, and of the variable API_PASSWORD of its process."""

    name, version = "keyed", ""

    def __init__(self, api_key: str, path: str) -> None:
        super().__init__()
        self.api_key = api_key
        of_variable = digest(os.environ.get("API_PASSWORD", ""))
        Path(path).write_text(f"{digest(api_key)} {of_variable}")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    log_metrics = log_hyperparams


class BrokenLogger(KeyedLogger):
    """It fails, and repeats its key."""

    def log_metrics(self, *_: Any, **__: Any) -> None:
        """Fail."""
        raise ValueError(f"the service refuses \x1b[31m{self.api_key}")
