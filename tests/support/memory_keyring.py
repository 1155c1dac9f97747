"""A keyring with one entry, in a variable, as there is none on a machine for tests."""

import os

from keyring.backend import KeyringBackend
from keyring.errors import PasswordSetError


class MemoryKeyring(KeyringBackend):  # type: ignore[misc]
    """It holds the service ``kafka`` for the user ``me``."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        """Return the password of the entry."""
        return os.environ["MEMORY_KEYRING"] if (service, username) == ("kafka", "me") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        """Refuse a new entry."""
        raise PasswordSetError(f"{service} of {username}: there is one entry only")
