"""A topic's address ``kafka://HOST:PORT/TOPIC``, and requests to its brokers."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from hepflow.config.stages import KAFKA
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.system.secret import require_none, resolved

_LIBRDKAFKA = logging.getLogger("hepflow.librdkafka")
_LIBRDKAFKA.setLevel(logging.CRITICAL)  # its errors are raised, in one line

_REFUSED = {KafkaError._AUTHENTICATION, KafkaError._SSL}  # noqa: SLF001 - librdkafka's own codes
_SLICE_S = 2.0  # after which errors of the connection are read


@dataclass(frozen=True)
class Topic:
    """A topic and its brokers."""

    servers: str  # ``host:port``, several separated by commas
    name: str
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Properties of librdkafka; they may hold a password."""

    @classmethod
    def parse(cls, address: str, properties: Mapping[str, str]) -> Self:
        """Return the topic of an address; its properties may refer to secrets."""
        require_none(address)
        servers, _, name = address.removeprefix(KAFKA).partition("/")
        if not address.startswith(KAFKA) or not servers or not name or "/" in name:
            advice = "Give kafka://HOST:PORT/TOPIC, with several brokers as HOST:PORT,HOST:PORT."
            raise ConfigError(f"{address!r} is not a topic. {advice}")
        return cls(servers, name, resolved(properties, "properties"))

    def __str__(self) -> str:
        return f"{KAFKA}{self.servers}/{self.name}"

    def client(self, **more: Any) -> dict[str, Any]:
        """Return the configuration of a client of confluent-kafka."""
        return {"bootstrap.servers": self.servers, **self.properties, **more, "logger": _LIBRDKAFKA}

    def partitions(self, timeout_s: float) -> list[int]:
        """Return the partitions, an empty list if the topic does not exist."""
        refused: list[KafkaError] = []
        admin, end = self._admin(error_cb=refused.append), time.monotonic() + timeout_s
        while True:
            left = end - time.monotonic()
            try:
                found = admin.list_topics(timeout=min(max(left, 0.1), _SLICE_S)).topics
            except KafkaException as error:
                admin.poll(0)  # calls error_cb
                for why in refused:
                    if why.code() in _REFUSED:
                        what = f"no connection to the broker ({_text(why)})"
                        advice = "Check user, password and certificates in the client properties."
                        raise DataError(f"{self}: {what}. {advice}") from error
                if left <= _SLICE_S:
                    what = f"no broker answers within {timeout_s:g} s ({reason(error)})"
                    advice = "Start it, or give the properties that it requires."
                    raise DataError(f"{self}: {what}. {advice}") from error
            else:
                break
        mine = found.get(self.name)
        return sorted(mine.partitions) if mine is not None and mine.error is None else []

    def require_same(self, before: Mapping[str, int], ends: Mapping[str, int]) -> None:
        """Refuse a topic with fewer messages, by partition, than were read before."""
        for partition, offset in before.items():
            end = ends.get(partition, 0)
            if end < offset:
                what = f"partition {partition} ends at {end:,}, {offset:,} messages were read"
                advice = "If the topic was created again, choose another output."
                raise DataError(f"{self}: {what}. {advice}")

    def create(self, partitions: int, timeout_s: float) -> bool:
        """Create the topic if it does not exist, and return whether it was created."""
        if self.partitions(timeout_s):
            return False
        admin, new = self._admin(), [NewTopic(self.name, partitions)]
        try:
            created = admin.create_topics(new, request_timeout=timeout_s)
            created[self.name].result(timeout_s)
        except KafkaException as error:
            what = f"topic does not exist and could not be created ({reason(error)})"
            raise DataError(f"{self}: {what}. Ask an administrator.") from error
        return True

    def _admin(self, **more: Any) -> AdminClient:
        try:
            return AdminClient(self.client(**more))
        except KafkaException as error:
            raise ConfigError(f"{self}: {reason(error)}. Check the client properties.") from error


def _text(error: KafkaError) -> str:
    """Return an error without the broker's address, and without the time that it took."""
    text = one_line(error.str()).partition(": ")[2] or error.str()
    return text.partition(" (after ")[0][:300]


def reason(error: KafkaException) -> str:
    """Return librdkafka's text of an error."""
    return str(error.args[0].str() if hasattr(error.args[0], "str") else error)
