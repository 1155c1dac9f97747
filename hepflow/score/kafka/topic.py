"""A topic's address ``kafka://HOST:PORT/TOPIC``, and requests to its brokers."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from hepflow.config.stages import KAFKA
from hepflow.errors import ConfigError, DataError

_LIBRDKAFKA = logging.getLogger("hepflow.librdkafka")
_LIBRDKAFKA.setLevel(logging.CRITICAL)  # its errors are raised, in one line


@dataclass(frozen=True)
class Topic:
    """A topic and its brokers."""

    servers: str  # ``host:port``, several separated by commas
    name: str
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Properties of librdkafka; they may hold a password."""

    @classmethod
    def parse(cls, address: str, properties: Mapping[str, str]) -> Self:
        """Return the topic of an address."""
        servers, _, name = address.removeprefix(KAFKA).partition("/")
        if not address.startswith(KAFKA) or not servers or not name or "/" in name:
            advice = "Give kafka://HOST:PORT/TOPIC, with several brokers as HOST:PORT,HOST:PORT."
            raise ConfigError(f"{address!r} is not a topic. {advice}")
        return cls(servers, name, dict(properties))

    def __str__(self) -> str:
        return f"{KAFKA}{self.servers}/{self.name}"

    def client(self, **more: Any) -> dict[str, Any]:
        """Return the configuration of a client of confluent-kafka."""
        return {"bootstrap.servers": self.servers, **self.properties, **more, "logger": _LIBRDKAFKA}

    def partitions(self, timeout_s: float) -> list[int]:
        """Return the partitions, an empty list if the topic does not exist."""
        try:
            found = AdminClient(self.client()).list_topics(timeout=timeout_s).topics.get(self.name)
        except KafkaException as error:
            what = f"no broker answers within {timeout_s:g} s ({reason(error)})"
            advice = "Start it, or give the properties that it requires."
            raise DataError(f"{self}: {what}. {advice}") from error
        return sorted(found.partitions) if found is not None and found.error is None else []

    def create(self, partitions: int, timeout_s: float) -> bool:
        """Create the topic if it does not exist, and return whether it was created."""
        if self.partitions(timeout_s):
            return False
        admin, new = AdminClient(self.client()), [NewTopic(self.name, partitions)]
        try:
            created = admin.create_topics(new, request_timeout=timeout_s)
            created[self.name].result(timeout_s)
        except KafkaException as error:
            what = f"topic does not exist and could not be created ({reason(error)})"
            raise DataError(f"{self}: {what}. Ask an administrator.") from error
        return True


def reason(error: KafkaException) -> str:
    """Return librdkafka's text of an error."""
    return str(error.args[0].str() if hasattr(error.args[0], "str") else error)
