"""Everything about Kafka: topics as input, and events published to one."""
