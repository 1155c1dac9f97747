"""Certificates of a test authority, made by openssl."""

import shutil
import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def why_not() -> str | None:
    """Return why there are no certificates here, or None."""
    return None if shutil.which("openssl") else "openssl is not installed"


def authority(folder: Path, name: str) -> Path:
    """Return the certificate of a new authority."""
    path = folder / f"{name}.pem"
    _openssl(path, f"/CN={name}")
    return path


def signed(ca: Path, address: str) -> Path:
    """Return a file with a private key and a server's certificate, signed by an authority."""
    path = ca.with_name(f"{address}.pem")
    own = ("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-addext", f"subjectAltName=IP:{address}")
    _openssl(path, f"/CN={address}", *own, "-addext", "basicConstraints=critical,CA:FALSE")
    path.write_text(path.with_suffix(".key").read_text() + path.read_text())
    return path


def _openssl(path: Path, subject: str, *more: object) -> None:
    outputs = ("-keyout", path.with_suffix(".key"), "-out", path)
    command = ["openssl", "req", "-x509", *_KEY, *outputs, "-subj", subject, *map(str, more)]
    subprocess.run(command, check=True, capture_output=True)
