"""A Dask cluster on a machine that others use: without its keys and its log, nobody gets in."""

import asyncio
import logging
import os
import re
import stat
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest
from cryptography import x509
from distributed import Client, LocalCluster, Security
from distributed.comm import connect

from hepflow.config.engines import ClusterConfig, TlsConfig
from hepflow.engines.dask import dask_client
from hepflow.engines.dask_security import Access
from hepflow.errors import ConfigError, DataError
from tests.support.browser import CHROMIUM, browser
from tests.support.ports import Place, listening

pytestmark = pytest.mark.slow
open_url = build_opener(ProxyHandler({})).open
PAGES = (
    "/",
    "/status",
    "/sitemap.json",
    "/health",
    "/metrics",
    "/json/counts.json",
    "/info/main/workers.html",
    "/individual-plots.json",
    "/statics/css/base.css",
    "/static/js/bokeh.min.js",
    "/proxy/22/127.0.0.1/",
    "/api/v1",
)


@pytest.fixture(scope="module")
def others() -> set[Place]:
    """Ports of this process that are not the cluster's, such as those of other tests' servers."""
    return set(listening(psutil.Process()))


@pytest.fixture(scope="module")
def cluster(others: set[Place]) -> Iterator[Client]:
    with dask_client(ClusterConfig(workers=2), 2) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture
def places(cluster: Client, others: set[Place]) -> set[Place]:
    return set(listening(psutil.Process())) - others


def strangers() -> dict[str, Security]:
    """Keys that somebody else may have."""
    other = Security.temporary()
    trusting = {name: getattr(other, name) for name in ("tls_client_cert", "tls_client_key")}
    return {
        "none": Security(),
        "of another run": other,
        "without an authority": Security(**trusting),
    }


def ask(address: str, keys: Security) -> Any:
    """Return the answer to the first question of any client."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(identity(address, keys), 4))
    finally:
        loop.close()


async def identity(address: str, keys: Security) -> Any:
    options = keys.get_connection_args("client") if keys.tls_client_cert else {}
    comm = await connect(address, timeout=3, **options)
    try:
        await comm.write({"op": "identity", "reply": True})
        return await asyncio.wait_for(comm.read(), 3)
    finally:
        comm.abort()


def test_the_certificate_is_valid_by_every_clock(cluster: Client) -> None:
    """A node's clock may be behind that of the machine where the run began."""
    certificate = x509.load_pem_x509_certificate(cluster.security.tls_worker_cert.encode())
    assert certificate.not_valid_before_utc.year == 1970
    assert certificate.not_valid_after_utc.year == 9999


def test_with_the_keys_they_answer(cluster: Client) -> None:
    answer = ask(cluster.scheduler.address, cluster.security)
    assert answer["type"] == "Scheduler"


@pytest.mark.parametrize("whose", ["none", "of another run", "without an authority"])
def test_without_the_keys_no_port_runs_code(
    cluster: Client, places: set[Place], whose: str
) -> None:
    keys = strangers()[whose]
    ports = {place.port for place in places}
    assert len(ports) >= 6, "scheduler, pages, and two of each worker and nanny"
    assert cluster.submit(os.getpid).result(timeout=30), "its own client works"
    for port in ports:
        for scheme in ("tcp", "tls"):
            with pytest.raises((OSError, TypeError, ValueError, RuntimeError)):
                ask(f"{scheme}://127.0.0.1:{port}", keys)
    assert cluster.submit(os.getppid).result(timeout=30), "and works on"


def test_all_ports_are_on_loopback(places: set[Place]) -> None:
    assert {place.host for place in places} == {"127.0.0.1"}


def test_pages_are_below_the_path_in_the_link_alone(cluster: Client) -> None:
    link = urlsplit(cluster.dashboard_link)
    token = link.path.split("/")[1]
    inside = f"http://{link.netloc}/{token}/info/main/workers.html"
    assert len(token) == 22
    assert open_url(cluster.dashboard_link, timeout=30).status == 200
    assert open_url(inside, timeout=30).status == 200
    for page in (*PAGES, *(f"/{token[:-1]}x{page}" for page in PAGES)):
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            open_url(f"http://{link.netloc}{page}", timeout=30)
        assert token not in str(refused.value.headers)
        assert token.encode() not in refused.value.read()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_dashboard_works_in_a_browser(cluster: Client, tmp_path: Path) -> None:
    link = cluster.dashboard_link
    with browser(tmp_path / "profile") as page:
        page.send("Page.navigate", url=link)
        end = time.monotonic() + 60
        while not page.run("window.Bokeh?.documents?.[0]?.roots().length"):
            assert time.monotonic() < end, page.errors
            time.sleep(0.2)
        scripts = page.run("[...document.scripts].map(script => script.src).filter(src => src)")
    assert scripts
    assert all(
        urlsplit(script).netloc == urlsplit(cluster.dashboard_link).netloc for script in scripts
    )
    assert not [error for error in page.errors if "asked the network" not in error]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:0", ""),
        ("localhost:0", ""),
        (":0", "all who have this address"),
        ("0.0.0.0:0", "all who have this address"),
    ],
)
def test_pages_on_the_network_are_said(
    address: str, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    with (
        caplog.at_level(logging.INFO, logger="hepflow"),
        dask_client(ClusterConfig(workers=1, dashboard_address=address), 1) as client,
    ):
        link = urlsplit(client.dashboard_link)
        hosts = {place.host for place in listening(psutil.Process()) if place.port == link.port}
    assert (hosts == {"127.0.0.1"}) == (not said)
    assert said in caplog.text
    assert bool(said) == ("the dashboard is open to the network" in caplog.text)
    outside = rf"ssh -N -L {link.port}:{link.hostname}:{link.port} \S+@\S+, then http://localhost:"
    assert re.search(f"{outside}{link.port}{link.path}", caplog.text)


def test_keys_for_jobs_are_files_of_the_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = Access("127.0.0.1:0").keys_in_files()
    paths = {Path(getattr(keys, f"tls_worker_{kind}")) for kind in ("key", "cert")}
    paths |= {Path(str(keys.tls_ca_file))}
    assert {path.parent.parent for path in paths} == {tmp_path}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in paths} == {0o700}
    with (
        LocalCluster(n_workers=0, security=keys, dashboard_address=None) as cluster,
        Client(cluster.scheduler_address, security=keys) as client,
    ):
        assert client.run_on_scheduler(os.getpid) == os.getpid()


@pytest.fixture
def with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, TlsConfig]]:
    """A scheduler of the user's own, and the files for it."""
    monkeypatch.chdir(tmp_path)
    keys = Access("127.0.0.1:0").keys_in_files()
    ca, cert, key = (
        Path(str(name)) for name in (keys.tls_ca_file, keys.tls_client_cert, keys.tls_client_key)
    )
    with LocalCluster(n_workers=1, threads_per_worker=1, security=keys) as cluster:
        yield cluster.scheduler_address, TlsConfig(ca=ca, cert=cert, key=key)


def test_a_running_scheduler_is_reached_with_files(with_files: tuple[str, TlsConfig]) -> None:
    address, files = with_files
    assert address.startswith("tls://")
    with dask_client(ClusterConfig(kind="address", address=address, tls=files), 1) as client:
        assert client.submit(os.getpid).result(timeout=30)


@pytest.mark.parametrize("wrong", ["none", "another's", "a folder", "missing"])
def test_wrong_files_are_one_line(
    with_files: tuple[str, TlsConfig], tmp_path: Path, wrong: str
) -> None:
    address, files = with_files
    if wrong == "none":
        given: dict[str, Any] = {"tls": TlsConfig()}
    elif wrong == "another's":
        other = Security.temporary()
        (tmp_path / "other.pem").write_text(other.tls_client_key)
        given = {"tls": TlsConfig(ca=files.ca, cert=files.cert, key=tmp_path / "other.pem")}
    else:
        path = tmp_path if wrong == "a folder" else tmp_path / "missing.pem"
        given = {"tls": TlsConfig(ca=files.ca, cert=files.cert, key=path)}
    config = ClusterConfig(kind="address", address=address, **given)
    expected = pytest.raises((ConfigError, DataError), match=r"cluster\.(address|tls)")
    with expected as error, dask_client(config, 1):
        pass
    assert "\n" not in str(error.value)


def test_a_cluster_of_this_process_is_reached_by_its_address() -> None:
    """As a notebook does: it starts one, and gives its address to a stage."""
    with dask_client(ClusterConfig(workers=1, memory="1GiB"), 1) as own:
        address = own.scheduler.address
        config = ClusterConfig(kind="address", address=address)
        with dask_client(config, 1) as client:
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    with pytest.raises(ConfigError, match="needs certificates"), dask_client(config, 1):
        pass


def test_an_address_without_tls_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as old:
        config = ClusterConfig(kind="address", address=old.scheduler_address)
        with dask_client(config, 1) as client:
            assert client.submit(os.getpid).result(timeout=30)
        assert f"{old.scheduler_address} has no TLS" in caplog.text
        files = TlsConfig(ca=tmp_path / "ca.pem")
        config = ClusterConfig(kind="address", address=old.scheduler_address, tls=files)
        refused = pytest.raises(ConfigError, match=r"cluster\.tls is for an address")
        with refused, dask_client(config, 1):
            pass


def test_a_handshake_that_stops_half_way_stops_nobody(cluster: Client) -> None:
    """As by a port scan."""
    import socket  # noqa: PLC0415

    address = urlsplit(cluster.scheduler.address)
    held = [socket.create_connection((address.hostname, address.port)) for _ in range(20)]
    held[0].sendall(b"\x16\x03\x01\x02\x00\x01")
    done = threading.Event()
    done.wait(1)
    assert cluster.submit(os.getpid, pure=False).result(timeout=30)
    for each in held:
        each.close()
