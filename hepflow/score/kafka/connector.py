"""Options of Spark's own connector, so that it reads what the source of this package reads."""

from collections.abc import Mapping

from hepflow.config.score import KafkaConfig
from hepflow.score.kafka.topic import Topic
from hepflow.system.secret import resolved

_DEFAULTS = {"failOnDataLoss": "false", "kafka.isolation.level": "read_committed"}
_DEFAULTS |= {"kafka.fetch.max.wait.ms": "50"}
"""Deleted messages are found by `hepflow.score.kafka.deleted`, and do not end the query. A request
for messages waits for new ones up to 500 ms by default, and the next micro-batch for its end."""
_NAMES = {
    "security.protocol": "kafka.security.protocol",
    "sasl.mechanism": "kafka.sasl.mechanism",
    "sasl.mechanisms": "kafka.sasl.mechanism",
    "isolation.level": "kafka.isolation.level",
    "ssl.ca.location": "kafka.ssl.truststore.location",
}
"""librdkafka's properties -> those of Kafka's Java client, where the value is the same."""
_LOGIN = "org.apache.kafka.common.security.{0}.{1}LoginModule"


def options(topic: Topic, config: KafkaConfig, tasks: int) -> dict[str, str]:
    """Return the options for a topic; up to ``tasks`` tasks or more read a micro-batch."""
    of_user = {**_translated(topic.properties), **resolved(config.options, "kafka.options")}
    return {
        **_DEFAULTS,
        **of_user,
        "kafka.bootstrap.servers": topic.servers,
        "subscribe": topic.name,
        "startingOffsets": config.starting,
        "minPartitions": str(tasks),
        "maxOffsetsPerTrigger": str(config.max_messages),
    }


def _translated(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties of TLS, a password and transactions in Java's names."""
    found = {_NAMES[name]: value for name, value in properties.items() if name in _NAMES}
    if "ssl.ca.location" in properties:
        found["kafka.ssl.truststore.type"] = "PEM"
    if "sasl.username" in properties:
        scram = found.get("kafka.sasl.mechanism", "").upper().startswith("SCRAM")
        module = _LOGIN.format(*(("scram", "Scram") if scram else ("plain", "Plain")))
        user, password = (
            properties.get(f"sasl.{name}", "").replace("\\", "\\\\").replace('"', '\\"')
            for name in ("username", "password")
        )
        login = f'{module} required username="{user}" password="{password}";'
        found["kafka.sasl.jaas.config"] = login
    return found
