"""A user's Delphes card: the text that Delphes evaluates, and what hepflow has to know of it.

A card is a Tcl script. It is not evaluated here: files that it sources by a plain name are read,
and lines of a fixed form are found in the text without comments. A copy of the card for one run
differs in what is appended to it: a later ``set`` replaces an earlier one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hepflow.data.provenance import digest
from hepflow.errors import ConfigError
from hepflow.schema import ALIASES, COLLECTIONS

_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_SOURCE = re.compile(r"^(\s*source\s+)([^\s;#]+)", re.MULTILINE)
_BRANCH = re.compile(r"\badd\s+Branch\s+(\S+)\s+(\w+)\s+(\w+)")
_EXECUTION = re.compile(r"^\s*set\s+ExecutionPath\s+\{([^}]*)\}", re.MULTILINE)
_MERGER = re.compile(r"^\s*module\s+PileUpMerger\s+(\w+)", re.MULTILINE)
_PILEUP_FILE = re.compile(r"^\s*set\s+PileUpFile\s+([^\s;]+)", re.MULTILINE)
_PILEUP_DEFAULT = "MinBias.pileup"  # PileUpMerger's own
_USUAL = {
    "EFlowTrack": "add Branch HCal/eflowTracks EFlowTrack Track",
    "EFlowPhoton": "add Branch ECal/eflowPhotons EFlowPhoton Tower",
    "EFlowNeutralHadron": "add Branch HCal/eflowNeutralHadrons EFlowNeutralHadron Tower",
}


@dataclass(frozen=True)
class Card:
    """A card and the files that it sources, by the names that it uses."""

    path: Path
    text: str
    sourced: Mapping[str, str]
    merger: str = ""
    """Name of the module that adds pile-up; empty if none is executed."""
    pileup_file: str = ""
    """The file that it reads, relative to the folder where Delphes runs."""

    @property
    def identity(self) -> str:
        """Digest of all that decides the detector."""
        return digest("card", self.text, sorted(self.sourced.items()))

    @property
    def pileup(self) -> Path | None:
        """The file of pile-up, if the card needs one that exists."""
        path = Path(self.pileup_file)
        return path.resolve() if self.merger and path.is_file() else None

    @property
    def conditions(self) -> str:
        """The pile-up, in words."""
        source = f", events of {self.pileup or 'the pool'}" if self.merger else ""
        return f"of {self.path.name}{source}"

    def copy_to(self, folder: Path, settings: Mapping[str, object]) -> Path:
        """Write the card, with some settings changed, and the files that it sources."""
        names = {name: f"sourced_{i}.tcl" for i, name in enumerate(self.sourced)}

        def renamed(text: str) -> str:
            found = {name: names.get(_plain(name), name) for _, name in _SOURCE.findall(text)}
            return _SOURCE.sub(lambda match: match[1] + found[match[2]], text)

        for name, content in self.sourced.items():
            (folder / names[name]).write_text(renamed(content))
        changes = "".join(f"set {name} {{{value}}}\n" for name, value in settings.items())
        card = folder / self.path.name
        card.write_text(f"{renamed(self.text)}\n{changes}")
        return card


def read_card(path: Path) -> Card:
    """Read a card; raise a ConfigError if it is missing, or lacks branches that ingest needs."""
    text = _read(path, path)
    sourced = dict(_sourced(path, text, {}))
    raw = "\n".join([text, *sourced.values()])
    code = _COMMENT.sub("", raw)
    _check_branches(path, raw, code)
    executed = " ".join(_EXECUTION.findall(code)[-1:]).split()
    merger = next((found for found in _MERGER.finditer(code) if found[1] in executed), None)
    if merger is None:
        return Card(path, text, sourced)
    files = _PILEUP_FILE.search(code, merger.end())
    name = _plain(files[1]) if files else _PILEUP_DEFAULT
    return Card(path, text, sourced, merger[1], name)


def _sourced(card: Path, text: str, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of sourced files; Delphes finds all next to the card."""
    for _, word in _SOURCE.findall(_COMMENT.sub("", text)):
        name = _plain(word)
        if name in known or re.search(r"[$\[]", name):  # which Delphes will resolve, or not
            continue
        known[name] = _read(card.parent / name, card)
        yield name, known[name]
        yield from _sourced(card, known[name], known)


def _plain(word: str) -> str:
    """Return a Tcl word without its quotes or braces."""
    return word.strip('"{}')


def _read(path: Path, card: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        if path == card:
            advice = "Give --delphes a card of Delphes, such as cards/delphes_card_CMS.tcl."
            raise ConfigError(f"{path}: {reason}. {advice}") from error
        advice = "Copy it from the folder of the original card."
        raise ConfigError(f"{card} sources {path}: {reason}. {advice}") from error


def _check_branches(path: Path, raw: str, code: str) -> None:
    found = {name for _, name, _ in _BRANCH.findall(code)}
    missing = [name for name in COLLECTIONS if not {name, ALIASES.get(name)} & found]
    if not missing:
        return
    disabled = {
        match[2]: match[0] for line in _COMMENT.findall(raw) for match in _BRANCH.finditer(line)
    }
    advice = []
    for name in missing:
        usual = _USUAL.get(name, f"add Branch ... {name} ...")
        line = re.sub(r"\s+", " ", disabled.get(name, usual))
        advice.append(f"`{line}`" + (" (remove its #)" if name in disabled else ""))
    text = f"{path}: its TreeWriter writes no {', '.join(missing)}"
    raise ConfigError(f"{text}, which hepflow reads. Put into the module: {'; '.join(advice)}.")
