"""Jars from Maven Central, which `make servers` puts below build/: Hadoop, Kafka, a connector."""

import shutil
from pathlib import Path

from hepflow.engines.java import java_home
from hepflow.errors import MissingDependency

_BUILD = Path(__file__).parents[2] / "build"
HADOOP, KAFKA, SPARK_KAFKA = (_BUILD / name for name in ("hadoop", "kafka", "spark-kafka"))
_OF_THE_CONNECTOR = ("spark-sql-kafka", "spark-token-provider", "kafka-clients", "commons-pool2")


def why_not(jars: Path) -> str | None:
    """Return why servers of these jars cannot be started here, or None."""
    try:
        java_home()
    except MissingDependency as error:
        return str(error)
    if not any(jars.glob("*.jar")):
        missing = "" if shutil.which("mvn") else ", which needs Maven (apt-get install maven)"
        return f"the jars of {jars.name} are not here: make servers{missing}"
    return None


def spark_kafka() -> list[Path]:
    """Return the jars of Spark's own Kafka connector that pyspark lacks; none if they are not here.

    The release for pyspark 4.3 is not on Maven Central yet; that of 4.2 works with it.
    """
    return [path for name in _OF_THE_CONNECTOR for path in SPARK_KAFKA.glob(f"{name}-*.jar")]
