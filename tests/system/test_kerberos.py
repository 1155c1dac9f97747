"""HDFS and YARN that ask for Kerberos: who has a ticket or a keytab may, others get one line."""

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import kerberos
from tests.support.commands import ROOT

pytest.importorskip("pyspark", reason="pip install 'hepflow[ingest]'")
pytest.importorskip("hdfs_native", reason="pip install 'hepflow[hdfs]'")

from tests.support.hadoop_cluster import HDFS, YARN, Hadoop, hadoop_cluster
from tests.support.jars import HADOOP, why_not
from tests.support.kerberos import REALM, Realm, realm, secured
from tests.support.on_yarn import OURS, SMALL, environment, submission, yarn_yaml
from tests.support.root_files import write_delphes

MISSING = why_not(HADOOP) or kerberos.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.spark,
    pytest.mark.yarn,
    pytest.mark.kerberos,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
SAMPLES = "--samples={qcd: [qcd], ttbar: [ttbar]}"
ON_HDFS = "import fsspec, sys, time; fs, _ = fsspec.core.url_to_fs(sys.argv[1]); "
QUICK = SMALL["spark.driver.extraJavaOptions"]


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    with realm(tmp_path_factory.mktemp("realm")) as running:
        for user in ("me", "you"):
            running.keytab(user, user)
        yield running


@pytest.fixture(scope="module")
def cluster(kdc: Realm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hadoop]:
    with secured_cluster(kdc, tmp_path_factory.mktemp("secured")) as running:
        yield running


@contextmanager
def secured_cluster(kdc: Realm, folder: Path, **options: int) -> Iterator[Hadoop]:
    """Yield a cluster in whose HDFS one user has a home and a folder with raw files."""
    of_it = {"more": secured(kdc, **options), "host": "localhost", "java": (kdc.java,)}
    with hadoop_cluster(folder, *HDFS, *YARN, **of_it) as running:
        for seed, name in enumerate(("qcd", "ttbar")):
            write_delphes(folder / "raw" / name / "one.root", [100], seed=seed)
        server = kdc.ticket("servers", "nn/localhost")
        for path in ("/user/me", "/data"):
            own = f"fs.makedirs('{path}'); fs.client.set_owner('{path}', 'me')"
            assert python(running, kdc, ON_HDFS + own, **server).returncode == 0
        upload = f"fs.put('{folder}/raw/', '/data/raw/', recursive=True)"
        done = python(running, kdc, ON_HDFS + upload, **kdc.ticket("me", "me"))
        assert done.returncode == 0, done.stderr
        yield running


def variables(cluster: Hadoop, kdc: Realm, **more: str) -> dict[str, str]:
    """Return the environment of somebody without a ticket."""
    own = {"JAVA_TOOL_OPTIONS": kdc.java, "KRB5CCNAME": f"FILE:{kdc.root}/{uuid.uuid4().hex}"}
    return environment(cluster) | kdc.environment | {"PYTHONPATH": str(ROOT)} | own | more


def python(cluster: Hadoop, kdc: Realm, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", code, cluster.url], cluster, kdc, **more)


def run(
    command: list[str], cluster: Hadoop, kdc: Realm, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=variables(cluster, kdc, **more),
        cwd=kdc.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def ingest(cluster: Hadoop, kdc: Realm, output: str, *options: str, **more: str) -> str:
    """Run ingest, and return what it said: all of it if it succeeds, and else its one line."""
    paths = (f"--input={cluster.url}/data/raw", f"--output={cluster.url}/data/{output}", SAMPLES)
    done = run([sys.executable, "-m", "hepflow", "ingest", *paths, *options], cluster, kdc, **more)
    if not done.returncode:
        return done.stderr
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("hepflow: error: "), line
    assert len(line) < 600
    return line


def on_yarn(kdc: Realm, **properties: str) -> str:
    """Return the option of a configuration of YARN with drivers and containers of this realm."""
    java = {
        f"spark.{one}.extraJavaOptions": f"{QUICK} {kdc.java}"
        for one in ("driver", "yarn.am", "executor")
    }
    own: Mapping[str, str | None] = {"spark.yarn.dist.archives": None}
    return yarn_yaml(kdc.root, **own, **OURS, **java, **properties)


def keytab(kdc: Realm, principal: str = "me") -> dict[str, str]:
    """Return the properties by which Spark takes its tickets from a keytab."""
    path = str(kdc.root / "me.keytab")
    return {
        "spark.kerberos.keytab": path,
        "spark.kerberos.principal": f"{principal}@{REALM}",
    }


def n_events(cluster: Hadoop, kdc: Realm, output: str) -> tuple[int, int]:
    """Return the events that a dataset has seen, and those it lost."""
    show = f"print(fs.cat_file('/data/{output}/_hepflow.json').decode())"
    done = python(cluster, kdc, ON_HDFS + show, **kdc.ticket("me", "me"))
    ledger = json.loads(done.stdout)["ledger"]
    return ledger["n_in"], len(ledger["lost"])


def test_containers_have_the_tokens_of_a_driver_with_a_ticket(cluster: Hadoop, kdc: Realm) -> None:
    """The URL names the host, and the token its address."""
    ingest(cluster, kdc, "ticket", on_yarn(kdc), **kdc.ticket("me", "me"))
    assert n_events(cluster, kdc, "ticket") == (200, 0)


def test_a_keytab_serves_a_driver_here_whose_tickets_end_while_it_runs(
    cluster: Hadoop, kdc: Realm
) -> None:
    kdc.run("kadmin.local", "modprinc", "-maxlife", "15s", "me")
    try:
        began = time.monotonic()
        ingest(cluster, kdc, "keytab", on_yarn(kdc, **keytab(kdc)))
        assert time.monotonic() - began > 15
    finally:
        kdc.run("kadmin.local", "modprinc", "-maxlife", "10h", "me")
    assert n_events(cluster, kdc, "keytab") == (200, 0)


def submitted(cluster: Hadoop, kdc: Realm, output: str, **more: str) -> None:
    """Run ingest with its driver in the cluster; ``more`` are properties, and variables."""
    java = {
        f"spark.{one}.extraJavaOptions": f"{QUICK} {kdc.java}" for one in ("driver", "executor")
    }
    config = {"spark.yarn.appMasterEnv.KRB5_CONFIG": kdc.environment["KRB5_CONFIG"]}
    own = {name: value for name, value in more.items() if name.startswith("spark.")}
    paths = (f"--input={cluster.url}/data/raw", f"--output={cluster.url}/data/{output}", SAMPLES)
    command = submission(
        "ingest", *paths, properties=SMALL | OURS | java | config | own, executors=1
    )
    done = run(command, cluster, kdc, **{n: value for n, value in more.items() if n not in own})
    assert done.returncode == 0, done.stderr
    assert n_events(cluster, kdc, output) == (200, 0)


def test_a_keytab_serves_a_driver_in_the_cluster(cluster: Hadoop, kdc: Realm) -> None:
    submitted(cluster, kdc, "there", **keytab(kdc))


def test_yarn_renews_the_tokens_of_a_driver_in_the_cluster_whose_ticket_has_ended(
    kdc: Realm, tmp_path: Path
) -> None:
    with secured_cluster(kdc, tmp_path, token_s=10) as short:
        kdc.run("kadmin.local", "modprinc", "-maxlife", "15s", "me")
        ticket = kdc.ticket("me", "me")
        kdc.run("kadmin.local", "modprinc", "-maxlife", "10h", "me")
        began = time.monotonic()
        submitted(short, kdc, "renewed", **ticket)
        assert time.monotonic() - began > 15


def test_a_process_outlives_its_tickets_by_a_keytab_alone(cluster: Hadoop, kdc: Realm) -> None:
    """A new connection is made after a ticket's life of some seconds."""
    code = "from hepflow.system.places import place; from hepflow.system.storage import listed; "
    code += "import fsspec, sys, time; top = place(sys.argv[1] + '/data'); print(listed(top)); "
    code += "time.sleep(7); fsspec.get_filesystem_class('hdfs').clear_instance_cache(); "
    code += "print(listed(place(sys.argv[1] + '/data')))"
    kdc.run("kadmin.local", "modprinc", "-maxlife", "6s", "me")
    try:
        own = {"KRB5_CLIENT_KTNAME": str(kdc.root / "me.keytab")}
        renewed = python(cluster, kdc, code, **own)
        ended = python(cluster, kdc, code, **kdc.ticket("me", "me"))
    finally:
        kdc.run("kadmin.local", "modprinc", "-maxlife", "10h", "me")
    assert renewed.returncode == 0, renewed.stderr
    assert renewed.stdout.count("/data/raw") == 2
    assert ended.stdout.count("/data/raw") == 1
    assert "NoCredentials: no valid credentials (" in ended.stderr
    assert "Ticket expired" in ended.stderr


def test_without_a_valid_ticket_there_is_one_line_and_nothing_is_lost(
    cluster: Hadoop, kdc: Realm
) -> None:
    said = ingest(cluster, kdc, "none", on_yarn(kdc))
    assert re.search(r"no valid credentials \(.*No Kerberos credentials", said), said
    assert "Run kinit" in said
    kdc.run("kadmin.local", "modprinc", "-maxlife", "1s", "me")
    expired = kdc.ticket("me", "me")
    kdc.run("kadmin.local", "modprinc", "-maxlife", "10h", "me")
    time.sleep(2)
    assert "Ticket expired" in ingest(cluster, kdc, "none", **expired)


def test_a_wrong_principal_is_one_line(cluster: Hadoop, kdc: Realm) -> None:
    wrong = keytab(kdc, principal="nobody")
    said = ingest(cluster, kdc, "wrong", on_yarn(kdc, **wrong), **kdc.ticket("me", "me"))
    assert f"failure to login: for principal: nobody@{REALM} from keytab" in said


def test_no_permission_is_one_line(cluster: Hadoop, kdc: Realm) -> None:
    said = ingest(cluster, kdc, "not-mine", **kdc.ticket("you", "you"))
    assert "Permission denied: user=you, access=WRITE" in said
