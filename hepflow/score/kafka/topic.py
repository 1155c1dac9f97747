"""kafka://HOST:PORT/TOPIC: where a topic is, whether anybody answers there, and how confluent-kafka is told."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from hepflow.config.stages import KAFKA
from hepflow.errors import ConfigError, DataError

_FOR_PEOPLE = logging.getLogger("hepflow.librdkafka")
_FOR_PEOPLE.setLevel(logging.CRITICAL)  # what librdkafka has to say is raised here, in a line


@dataclass(frozen=True)
class Topic:
    """A topic and the brokers that have it."""

    servers: str
    """``host:port``, several of them with commas."""
    name: str
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of librdkafka; they may hold a password."""

    @classmethod
    def parse(cls, address: str, properties: Mapping[str, str]) -> Self:
        """From an address.

        Raises
        ------
        ConfigError
            It is not of the form kafka://HOST:PORT/TOPIC.
        """
        servers, _, name = address.removeprefix(KAFKA).partition("/")
        if not address.startswith(KAFKA) or not servers or not name or "/" in name:
            raise ConfigError(
                f"{address!r} is no topic: give kafka://HOST:PORT/TOPIC, with several brokers as HOST:PORT,HOST:PORT"
            )
        return cls(servers, name, dict(properties))

    def __str__(self) -> str:
        return f"{KAFKA}{self.servers}/{self.name}"

    def client(self, **more: Any) -> dict[str, Any]:
        """Configuration of a client of confluent-kafka."""
        return {"bootstrap.servers": self.servers, **self.properties, **more, "logger": _FOR_PEOPLE}

    def partitions(self, timeout_s: float) -> list[int]:
        """Its partitions; none if there is no such topic.

        Raises
        ------
        DataError
            No broker answers.
        """
        try:
            found = AdminClient(self.client()).list_topics(timeout=timeout_s).topics.get(self.name)
        except KafkaException as error:
            raise DataError(
                f"{self}: no broker answers within {timeout_s:g} s ({reason(error)}). "
                "Does it run, and do the properties hold what it asks for?"
            ) from error
        return sorted(found.partitions) if found is not None and found.error is None else []

    def make(self, partitions: int, timeout_s: float) -> bool:
        """Make it unless it is there; whether it had to be made.

        Raises
        ------
        DataError
            No broker answers, or it does not allow it.
        """
        if self.partitions(timeout_s):
            return False
        admin = AdminClient(self.client())
        try:
            admin.create_topics([NewTopic(self.name, partitions)], request_timeout=timeout_s)[
                self.name
            ].result(timeout_s)
        except KafkaException as error:
            raise DataError(
                f"{self}: no such topic, and it cannot be made ({reason(error)}). Have it made by who may."
            ) from error
        return True


def reason(error: KafkaException) -> str:
    """What librdkafka says, in words."""
    return str(error.args[0].str() if hasattr(error.args[0], "str") else error)
