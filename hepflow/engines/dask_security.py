"""Who gets into a Dask cluster: processes with the keys of its run, and readers of its log.

Whoever reaches a port of Dask's runs code as its user, unless it asks for a certificate. All
processes of a cluster have one certificate, which is made for the run. Browsers have none, so the
pages lie under a path with a random part, which only the log of the run shows.
"""

import getpass
import ipaddress
import logging
import os
import secrets
import socket
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from distributed import Scheduler, Security
from distributed.utils import clean_dashboard_address
from tornado.routing import PathMatches, Rule, RuleRouter

from hepflow.config.engines import TlsConfig
from hepflow.errors import ConfigError
from hepflow.system.publishing import scratch
from hepflow.system.terminal import TO_PASTE

log = logging.getLogger(__name__)

TLS: Final = "tls://"
NO_PAGES: Final = "127.0.0.1:0"
"""Address of a worker's pages, which Dask always serves: none of them has content here."""
OF_WORKERS: Final[dict[str, Any]] = {"distributed.worker.http.routes": []}
"""Settings of workers, without the path of the pages: others may read the script of a job."""


class Access:
    """Keys of a new cluster, and the path of its pages.

    ``keys`` are for all its processes, ``scheduler`` has arguments of the scheduler, and
    ``settings`` are Dask's.
    """

    def __init__(self, dashboard_address: str) -> None:
        self.keys = _new_keys()
        host = clean_dashboard_address(dashboard_address)[0]["address"] or ""
        self._on_network = not _is_loopback(host)
        token = secrets.token_urlsafe(16)
        link = f"{{scheme}}://{'{host}' if self._on_network else host}:{{port}}/{token}/status"
        self.scheduler: dict[str, Any] = {
            "dashboard_address": dashboard_address,
            "http_prefix": token,
        }
        self.settings = {"distributed.dashboard.link": link} | OF_WORKERS

    def keys_in_files(self) -> Security:
        """Return the keys as files, which the jobs of a batch system read.

        They are in a folder of this user's in the current one, and go with the process.
        """
        folder = scratch(Path.cwd())
        names = ("ca_file", "worker_key", "worker_cert")
        paths = {name: folder / f"{name}.pem" for name in names}
        for name, path in paths.items():
            path.touch(0o600)
            path.write_text(getattr(self.keys, f"tls_{name}"))
        files = {f"tls_{name}": str(path) for name, path in paths.items()}
        for role in ("client", "scheduler"):
            files |= {f"tls_{role}_{kind}": files[f"tls_worker_{kind}"] for kind in ("key", "cert")}
        return Security(require_encryption=True, **files)

    def close_other_pages(self, scheduler: Scheduler) -> None:
        """Let the scheduler answer below the path alone: outside it, two pages name the path."""
        below = PathMatches(f"/{self.scheduler['http_prefix']}/.*")
        router = RuleRouter([Rule(below, scheduler.http_application)])
        scheduler.http_server.request_callback = router

    def show(self, link: str, kind: str) -> None:
        """Log the address of the dashboard, and how to open it on another machine."""
        log.info("Dask dashboard: %s", link or "none (is bokeh installed?)")
        if not link:
            return
        if self._on_network:
            log.warning("the dashboard is open to the network, and to all who have this address")
        if kind != "local" or "SSH_CONNECTION" in os.environ:
            login = os.environ.get("SLURM_SUBMIT_HOST", "LOGIN_NODE")
            url, host = urlsplit(link), login if self._on_network else socket.getfqdn()
            tunnel = f"ssh -N -L {url.port}:{url.hostname}:{url.port} {getpass.getuser()}@{host}"
            text = "to open the Dask dashboard from outside: %s, then http://localhost:%s%s"
            log.info(text, tunnel, url.port, url.path, extra=TO_PASTE)


def keys_of_user(address: str, files: TlsConfig) -> Security:
    """Return the user's keys for a running scheduler; without files, those that Dask knows."""
    given = {"ca_file": files.ca, "client_cert": files.cert, "client_key": files.key}
    found = {f"tls_{name}": str(path) for name, path in given.items() if path is not None}
    if address.startswith(TLS):
        keys = Security(require_encryption=True, **found)
        if not (keys.tls_ca_file and keys.tls_client_cert):
            advice = "Give cluster.tls.ca, cluster.tls.cert and cluster.tls.key."
            raise ConfigError(f"cluster.address {address}: needs certificates. {advice}")
        return keys
    if found:
        what = f"cluster.tls is for an address that begins with {TLS}, not for {address}"
        raise ConfigError(f"{what}. Start the scheduler with --tls-ca-file, --tls-cert, --tls-key.")
    log.warning("%s has no TLS: all who reach it can run code as its user", address)
    return Security()


def _new_keys() -> Security:
    """Return a key and its own certificate, for all processes of a cluster.

    The certificate is valid at any time: they end with the run. That of `Security.temporary` is
    valid from this machine's present second, before which the clock of a node may be.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hepflow")])
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(1970, 1, 1))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59))  # RFC 5280: no date
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    as_text, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    of_key = key.private_bytes(as_text, serialization.PrivateFormat.PKCS8, plain).decode()
    of_certificate = certificate.public_bytes(as_text).decode()
    files = {"tls_ca_file": of_certificate}
    for role in ("client", "scheduler", "worker"):
        files |= {f"tls_{role}_key": of_key, f"tls_{role}_cert": of_certificate}
    return Security(require_encryption=True, **files)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # empty, for all interfaces, or a name
        return False
