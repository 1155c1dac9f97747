"""A Kerberos realm of one machine: MIT's KDC as a process, and keytabs of its principals."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.hadoop_cluster import free_ports
from tests.support.stores import wait_for_port

REALM = "EXAMPLE.ORG"
_PROGRAMS = ("krb5kdc", "kadmin.local", "kdb5_util", "kinit")
_SERVER = """
[kdcdefaults]
kdc_listen = 127.0.0.1:{port}
kdc_tcp_listen = 127.0.0.1:{port}
[realms]
{realm} = {{
  database_name = {root}/principal
  key_stash_file = {root}/stash
  acl_file = {root}/acl
  max_life = 10h
  max_renewable_life = 7d
}}
"""
_CLIENT = """
[libdefaults]
default_realm = {realm}
rdns = false
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
udp_preference_limit = 1
[realms]
{realm} = {{
  kdc = 127.0.0.1:{port}
}}
[domain_realm]
localhost = {realm}
"""


@dataclass(frozen=True)
class Realm:
    """Handle of a running realm."""

    root: Path
    environment: dict[str, str]
    """Variables of its programs and clients."""

    @property
    def java(self) -> str:
        """The option by which a JVM finds the realm."""
        return f"-Djava.security.krb5.conf={self.environment['KRB5_CONFIG']}"

    def keytab(self, name: str, *principals: str, lifetime: str | None = None) -> Path:
        """Return a file with the keys of principals, which are created the first time."""
        path = self.root / f"{name}.keytab"
        for principal in principals if not path.exists() else ():
            life = ["-maxlife", lifetime] if lifetime else []
            self.run("kadmin.local", "addprinc", *life, "-randkey", principal)
            self.run("kadmin.local", "ktadd", "-k", str(path), principal)
        return path

    def ticket(self, name: str, principal: str, *options: str) -> dict[str, str]:
        """Return the variable of a cache with a new ticket."""
        cache = {"KRB5CCNAME": f"FILE:{self.root}/{name}.cache"}
        keytab = str(self.root / f"{name}.keytab")
        self.run("kinit", *options, "-k", "-t", keytab, principal, **cache)
        return cache

    def run(self, *command: str, **more: str) -> None:
        """Run one of Kerberos's programs."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def why_not(programs: Sequence[str] = _PROGRAMS) -> str | None:
    """Return why no realm can run here, or None."""
    missing = [name for name in programs if shutil.which(name, path=_path()) is None]
    package = "Debian: apt-get install krb5-kdc krb5-admin-server krb5-user"
    return f"no {missing[0]} ({package})" if missing else None


@contextmanager
def realm(root: Path) -> Iterator[Realm]:
    """Yield a running realm, with its files below ``root``."""
    if reason := why_not():
        pytest.skip(reason)
    (port,) = free_ports(1)
    root.mkdir(parents=True, exist_ok=True)
    for name, text in (("kdc.conf", _SERVER), ("krb5.conf", _CLIENT)):
        (root / name).write_text(text.format(port=port, root=root, realm=REALM))
    environment = {
        "PATH": _path(),
        "KRB5_CONFIG": str(root / "krb5.conf"),
        "KRB5_KDC_PROFILE": str(root / "kdc.conf"),
    }
    found = Realm(root, environment)
    found.run("kdb5_util", "create", "-s", "-P", "of a test")
    with (root / "kdc.log").open("w") as log:
        server = subprocess.Popen(
            ["krb5kdc", "-n"], env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for_port(port)
        yield found
    finally:
        server.terminate()
        server.wait(timeout=60)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"


def secured(found: Realm, token_s: int = 86_400) -> dict[str, dict[str, object]]:
    """Return the properties by which Hadoop's servers on localhost ask for Kerberos.

    A token of HDFS ends after ``token_s`` seconds, unless somebody renews it.
    """
    servers = {"namenode": "nn", "datanode": "dn", "resourcemanager": "rm", "nodemanager": "nm"}
    principals = {server: f"{name}/localhost" for server, name in servers.items()}
    web = "HTTP/localhost"
    keys = found.keytab("servers", web, *principals.values())
    hdfs: dict[str, object] = {
        "dfs.block.access.token.enable": "true",
        "dfs.data.transfer.protection": "authentication",
        "dfs.namenode.delegation.token.renew-interval": token_s * 1000,
        "dfs.web.authentication.kerberos.principal": f"{web}@{REALM}",
        "dfs.web.authentication.kerberos.keytab": keys,
        "ignore.secure.ports.for.testing": "true",
    }
    for server in ("namenode", "datanode"):
        hdfs[f"dfs.{server}.kerberos.principal"] = f"{principals[server]}@{REALM}"
        hdfs[f"dfs.{server}.keytab.file"] = keys
    yarn: dict[str, object] = {}
    for server in ("resourcemanager", "nodemanager"):
        yarn[f"yarn.{server}.principal"] = f"{principals[server]}@{REALM}"
        yarn[f"yarn.{server}.keytab"] = keys
    core = {"hadoop.security.authentication": "kerberos", "hadoop.security.authorization": "true"}
    return {"core-site": core, "hdfs-site": hdfs, "yarn-site": yarn}
