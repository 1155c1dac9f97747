"""Marked secrets in the options of every stage: nothing written, printed or served has one."""

import os
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("pyspark")
pytest.importorskip("pytorch_lightning")

from hepflow.config.secrecy import PASSED_ON, REFERRED
from hepflow.config.shipped import shipped
from hepflow.schema import CLASSES
from hepflow.system.places import place
from tests.support.keyed_logger import digest
from tests.support.secret_search import Watched
from tests.support.stores import S3Server
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import write_raw

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.s3, pytest.mark.timeout(1800)]
MARK = f"xyzzy{uuid.uuid4().hex}"
IN_FILE, IN_VARIABLE, PLAIN = f"{MARK}-in-file", f"{MARK}-in-variable", f"{MARK}-plain"
LOGGERS = "tests.support.keyed_logger"
HLF = f"--config={shipped('train/hlf.yaml')}"
SHORT = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--data.batch_size=32")
CLUSTER = ("--cluster.workers=1",)


class Site:
    """A folder with a secret, a bucket that needs it, and the configurations of the stages."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.secret = folder / "secret"
        self._write(self.secret, IN_FILE)
        properties = {
            "spark.hadoop.fs.s3a.secret.key": PLAIN,
            "spark.a.token": "env:MARKED",
            "spark.executorEnv.API_PASSWORD": f"file:{self.secret}",
            "spark.ssl.keyStorePassword": "env:MARKED",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": f"file:{folder}/logs",
        }
        (folder / "logs").mkdir()
        keys = {"key": "env:MARKED", "secret": "file:secret"}
        self.endpoint = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
        init = {"api_key": "file:secret", "path": "keyed"}
        loggers = [{"class_path": f"{LOGGERS}.KeyedLogger", "init_args": init}]
        spark = {"master": "local[1]", "driver_memory": "512m", "conf": properties}
        self.given = [self.secret]
        self.s3 = self.config("s3", storage={"s3://bucket": {**keys, **self.endpoint}})
        self.spark = self.config("spark", spark=spark)
        self.dask = self.config("dask", cluster={"kind": "spark", "spark": spark})
        self.logger = self.config("logger", trainer={"logger": loggers})
        init = {**init, "api_key": "env:MARKED"}
        loggers = [{"class_path": f"{LOGGERS}.BrokenLogger", "init_args": init}]
        self.broken = self.config("broken", trainer={"logger": loggers})

    def config(self, name: str, **content: Any) -> str:
        """Return the option of a file that only its user reads."""
        path = self.folder / f"{name}.yaml"
        self._write(path, yaml.safe_dump(content))
        self.given.append(path)
        return f"--config={path}"

    def __call__(self, *arguments: str, code: int = 0, **env: str) -> Watched:
        """Run a command, and require that it shows no secret."""
        none = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
        none |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "", "MARKED": IN_VARIABLE}
        command = Watched(*arguments, folder=self.folder, env=none | env)
        found = command.search(MARK, *self.given)
        assert command.returncode == code, command.text
        assert found == [], f"{' '.join(arguments)}: {command.text}"
        return command

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.touch(0o600)
        path.write_text(text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Site:
    folder = tmp_path_factory.mktemp("site")
    for number, name in enumerate(CLASSES * 2):
        write_raw(folder / "raw" / name / f"{number}.root", [40, 30], seed=number)
    return Site(folder, f"{s3_server.url}/{uuid.uuid4().hex}")


def test_the_options_with_secrets_are_those_of_this_file() -> None:
    of_kafka = {"kafka.properties", "kafka.options", "properties"}  # test_kafka_security.py
    assert {*PASSED_ON} == of_kafka | {"spark.conf", "cluster.spark.conf"}
    assert {*REFERRED} == {"storage", "trainer"}


def test_no_stage_shows_a_secret(site: Site) -> None:
    """All of them reach the bucket, whose keys are in a file and a variable."""
    url, s3 = site.url, site.s3
    seen = site("ingest", s3, site.spark, "--input=raw", f"--output={url}/events").seen
    assert any("spark.executorEnv.API_PASSWORD" in text for text in seen.values())
    assert any("org.apache.spark.deploy.SparkSubmit" in text for text in seen.values())
    events = f"--input={url}/events"
    seen = site("features", s3, events, f"--output={url}/features.zarr", *CLUSTER).seen
    assert any("/info/main/workers.html" in name for name in seen)
    site("features", s3, site.dask, events, f"--output={url}/again.zarr", *CLUSTER)
    store, run = f"--input={url}/features.zarr", f"{url}/runs/hlf"
    site("store", "check", s3, store)
    train = (HLF, s3, site.logger, *SHORT, f"--data.store={url}/features.zarr")
    site("train", "fit", *train, f"--output={run}")
    assert (site.folder / "keyed").read_text().split()[0] == digest(IN_FILE)
    config = yaml.safe_load(place(f"{run}/config.yaml").read_text())
    assert config["trainer"]["logger"][0]["init_args"]["api_key"] == "file:secret"
    again = place(f"{run}/config.yaml").read_text()
    (site.folder / "copy.yaml").write_text(again)
    site("train", "validate", "--config=copy.yaml", s3, f"--output={run}")
    number = ("--spark.num_processes=1",)
    site("spark-train", *train, site.spark, f"--output={url}/runs/spark", *number)
    assert (site.folder / "keyed").read_text().split() == [digest(IN_FILE)] * 2
    site("trees", s3, store, f"--output={url}/runs/trees", "--rounds=3")
    site("forest", s3, site.spark, store, f"--output={url}/runs/forest", "--trees=3", "--depth=2")
    site("export", s3, f"--run={run}", store)
    site("evaluate", s3, f"--input={url}/runs", f"--output={url}/report", "--bootstrap=2")
    score = ("score", s3, "--input=raw", f"--model={run}/model.onnx", *CLUSTER)
    site(*score, f"--output={url}/scores")
    site(*score, f"--output={url}/live", "--stream", "--idle-stop-s=5")
    space = "--space={model.lr: [0.001]}"
    site("tune", s3, store, f"--output={url}/tune", "--trials=1", space, *CLUSTER)
    written = [path for path in place(url).rglob("*") if path.is_file()]
    assert len(written) > 50
    assert [str(path) for path in written if MARK.encode() in path.read_bytes()] == []
    logs = [path.read_text() for path in (site.folder / "logs").rglob("events_*")]
    assert ["spark.executorEnv.API_PASSWORD" in text for text in logs] == [True] * 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("ingest", "SPARK", "--spark.driver_memory=nonsense", "--input=raw"), 2),
        (("ingest", "SPARK", "--spark.master=spark://127.0.0.1:1", "--input=raw"), 2),
        (("features", "WRONG", "--input=s3://bucket/x", "--output=x.zarr"), 2),
        (("features", "S3", "--input=s3://bucket/nothing", "--output=x.zarr"), 2),
        (("train", "fit", HLF, "BROKEN", *SHORT, "--data.store=toy.zarr", "--output=broken"), 1),
    ],
)
def test_no_failure_shows_a_secret(
    site: Site, arguments: tuple[str, ...], code: int, toy: None
) -> None:
    keys = {"key": "env:MARKED", "secret": "env:MARKED", "endpoint_url": "http://127.0.0.1:1"}
    named = {"SPARK": site.spark, "S3": site.s3, "BROKEN": site.broken}
    named["WRONG"] = site.config("wrong", storage={"s3://bucket": keys})
    command = site(*(named.get(word, word) for word in arguments), code=code)
    if code == 2:
        assert "Traceback" not in command.text
        assert command.text.strip().splitlines()[-1].startswith("hepflow: error: ")
    else:
        assert "the service refuses ␛[31m***" in command.text


@pytest.fixture(scope="module")
def toy(site: Site) -> None:
    toy_store(site.folder / "toy.zarr")
