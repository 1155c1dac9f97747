"""A virtual environment packed by venv-pack for cluster nodes; its Python records where it runs."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import hepflow

ROOT = Path(hepflow.__path__[0]).parent
NOTES = """
import atexit, os, sys
began = os.getcwd()
def note():
    with open({file!r}, "a") as file:
        print(began, os.getcwd(), sys.prefix, sys.modules.get("hepflow"), sep="|", file=file)
atexit.register(note)
"""


class Note(NamedTuple):
    """Record of a process of the packed Python."""

    began: Path
    """Working directory at its start."""
    ended: Path
    """Working directory at its end."""
    prefix: Path
    """The environment that it belonged to."""
    hepflow: str
    """From where it had hepflow, if it had."""


def pack(folder: Path) -> Path:
    """Create ``environment.tar.gz``, with an installed hepflow instead of the checkout.

    The packed Python finds large packages in this environment: packing them too takes a minute.

    Parameters
    ----------
    folder : Path
        Where to; the notes will lie there too.
    """
    environment, archive = folder / "environment", folder / "environment.tar.gz"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=120
    )
    (packages,) = environment.glob("lib/python*/site-packages")
    install = (
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(packages),
        str(ROOT),
    )
    subprocess.run([sys.executable, "-m", *install], check=True, timeout=120)
    (packages / "leaves_a_note.py").write_text(NOTES.format(file=str(folder / "notes")))
    (packages / "leaves_a_note.pth").write_text(
        f"import leaves_a_note, sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    )
    packed = [
        sys.executable,
        "-m",
        "venv_pack",
        "--quiet",
        "--prefix",
        str(environment),
        "--output",
        str(archive),
    ]
    subprocess.run(packed, check=True, timeout=120)
    return archive


def notes(folder: Path) -> list[Note]:
    """Return the records since the last call."""
    file = folder / "notes"
    lines = [line.split("|") for line in file.read_text().splitlines()] if file.is_file() else []
    file.unlink(missing_ok=True)
    return [Note(*map(Path, places), module) for *places, module in lines]
