"""Topics behind TLS and a password (SCRAM): they are scored, the password stays secret."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import certificates
from tests.support.commands import Command

pytest.importorskip("pyspark", reason="pip install 'hepflow[kafka]'")

from hepflow_bench.copies import copy_as_new
from tests.support.hadoop_cluster import free_ports
from tests.support.jars import spark_kafka
from tests.support.kafka_broker import broker
from tests.support.secret_search import Watched
from tests.support.toy_trigger import TEMPLATE_EVENTS, all_ids, scored_ids, untrained, write_raw

MISSING = certificates.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.kafka,
    pytest.mark.spark,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
WORD = "xyzzy"
PASSWORD = f'a "quoted\\ {WORD}'
TIMEOUT_S = 20


@dataclass
class Secured:
    """A broker's address, and the properties of a client that it accepts."""

    address: str
    properties: Mapping[str, str]
    other_ca: Path

    def config(self, path: Path, *sections: str, **more: Any) -> str:
        """Return the option of a file that only its user reads, with properties in sections."""
        content: dict[str, Any] = dict(more)
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {})
        inner["properties"] = {**self.properties, **inner.get("properties", {})}
        path.touch(0o600)
        path.write_text(json.dumps(content))
        return f"--config={path}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    ca, other = (certificates.authority(folder, name) for name in ("ca", "other"))
    (port,) = free_ports(1)
    listener, module = f"SASL_SSL://127.0.0.1:{port}", "scram.ScramLoginModule required;"
    same = ("CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT", "SASL_SSL:SASL_SSL")
    of_the_listener = "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config"
    more = {
        "listeners": listener,
        "advertised.listeners": listener,
        "listener.security.protocol.map": ",".join(same),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": certificates.signed(ca, "127.0.0.1"),
        of_the_listener: f"org.apache.kafka.common.security.{module}",
    }
    properties = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(ca),
    }
    with broker(folder / "broker", more, {"me": PASSWORD}):
        yield Secured(f"127.0.0.1:{port}", properties, other)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.root"
    return write_raw(path, [TEMPLATE_EVENTS], seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), template)


def spark(connector: str) -> dict[str, Any]:
    if connector == "spark" and not spark_kafka():
        pytest.skip("the jars of Spark's connector are not here: make servers")
    conf = {"spark.jars": ",".join(map(str, spark_kafka()))} if connector == "spark" else {}
    return {"spark": {"master": "local[1]", "driver_memory": "512m", "conf": conf}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("connector", "way"),
    [("python", "plain"), ("python", "file"), ("spark", "variable"), ("spark", "keyring")],
)
def test_a_topic_is_scored_and_the_password_is_nowhere(
    secured: Secured, tmp_path: Path, template: Path, model: Path, connector: str, way: str
) -> None:
    """The properties, and where they refer to, are those of both sources."""
    if way == "keyring":
        pytest.importorskip("keyring")
    output, secret = tmp_path / "scores", tmp_path / "secret"
    topic = f"kafka://{secured.address}/{connector}-{way}"
    copy_as_new(template, tmp_path / "raw" / "0.root", 1)
    secret.touch(0o600)
    secret.write_text(f"{PASSWORD}\n")
    variables = {"KAFKA_PASSWORD": PASSWORD if way == "variable" else ""}
    variables |= {"PYTHON_KEYRING_BACKEND": "tests.support.memory_keyring.MemoryKeyring"}
    variables |= {"MEMORY_KEYRING": PASSWORD if way == "keyring" else ""}
    given = {"plain": PASSWORD, "file": "file:secret", "variable": "env:KAFKA_PASSWORD"}
    own = {"sasl.password": given.get(way, "keyring:kafka/me")}
    more = {"kafka": {"connector": connector, "properties": own}, **spark(connector)}
    replay = secured.config(tmp_path / "replay.yaml", properties=own)
    score = secured.config(tmp_path / "score.yaml", "kafka", **more)
    paths = (secret, tmp_path / "replay.yaml", tmp_path / "score.yaml")
    published = Watched(
        *("replay", replay, "--input=raw", f"--output={topic}", "--rate=0"),
        folder=tmp_path,
        env=variables,
    )
    assert published.search(WORD, *paths) == []
    assert published.returncode == 0, published.text
    options = (f"--input={topic}", "--output=scores", f"--model={model}", "--stream")
    scoring = Watched(
        *("score", score, *options, "--idle-stop-s=15", "--poll-s=0.5"),
        folder=tmp_path,
        env=variables,
    )
    assert scoring.search(WORD, *paths) == []
    assert scoring.returncode == 0, scoring.text
    assert scored_ids(output) == all_ids(tmp_path / "raw")
    (environment,) = (text for name, text in scoring.seen.items() if name.endswith("/environment"))
    assert "spark.app.name" in environment
    assert scoring.seen["plans"] != "[]", "the plans are what might have options"
    assert any("java" in name for name in scoring.seen)


REFUSED = {
    "password": ({"sasl.password": f"another {WORD}"}, "invalid credentials"),
    "user": ({"sasl.username": "nobody"}, "invalid credentials"),
    "authority": ({"ssl.ca.location": "OTHER"}, "certificate verify failed"),
    "mechanism": ({"sasl.mechanism": "PLAIN"}, "SCRAM-SHA-512"),
    "name": ({"sasl.pass": f"another {WORD}"}, 'No such configuration property: "sasl.pass"'),
}


@pytest.mark.parametrize("command", ["replay", "score"])
@pytest.mark.parametrize("wrong", REFUSED)
def test_a_refused_client_is_one_line(
    secured: Secured, tmp_path: Path, template: Path, model: Path, command: str, wrong: str
) -> None:
    changed, reason = REFUSED[wrong]
    own = {name: text.replace("OTHER", str(secured.other_ca)) for name, text in changed.items()}
    copy_as_new(template, tmp_path / "raw" / "0.root", 1)
    topic, timeout = f"kafka://{secured.address}/refused", f"--timeout-s={TIMEOUT_S}"
    if command == "replay":
        config = secured.config(tmp_path / "client.yaml", properties=own)
        options = (f"--input={tmp_path}/raw", f"--output={topic}")
    else:
        config = secured.config(tmp_path / "client.yaml", "kafka", kafka={"properties": own})
        options = (f"--input={topic}", f"--output={tmp_path}/scores", f"--model={model}")
        options += ("--stream",)
    began = time.monotonic()
    said = Command(command, config, timeout, *options).finish()
    assert time.monotonic() - began < TIMEOUT_S
    assert said.returncode == 2
    assert "Traceback" not in said.stderr
    line = said.stderr.strip().splitlines()[-1]
    assert line.startswith(f"hepflow: error: {topic}: "), said.stderr
    assert reason in line
    assert WORD not in said.stdout + said.stderr


@pytest.mark.timeout(600)
def test_a_password_that_only_spark_s_connector_has_wrong_is_one_line(
    secured: Secured, tmp_path: Path, template: Path, model: Path
) -> None:
    copy_as_new(template, tmp_path / "raw" / "0.root", 1)
    topic = f"kafka://{secured.address}/of-java"
    config = secured.config(tmp_path / "client.yaml")
    paths = (f"--input={tmp_path}/raw", f"--output={topic}")
    assert Command("replay", config, *paths).finish().returncode == 0
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    options = {"kafka.sasl.jaas.config": f'{login} username="me" password="another {WORD}";'}
    more = {"kafka": {"connector": "spark", "options": options}, **spark("spark")}
    config = secured.config(tmp_path / "client.yaml", "kafka", **more)
    paths = (f"--input={topic}", f"--output={tmp_path}/scores", f"--model={model}")
    said = Command("score", config, *paths, "--stream", "--retries=0").finish(240)
    assert said.returncode == 2, said.stderr
    assert "Traceback" not in said.stderr
    line = said.stderr.strip().splitlines()[-1]
    assert line.startswith(f"hepflow: error: {topic}: "), said.stderr
    assert "invalid credentials" in line
    assert len(line) < 600
    assert WORD not in said.stdout + said.stderr
