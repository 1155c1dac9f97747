"""One Delphes ROOT file -> awkward events of the wanted collections, in ranges of entries.

Real files name a branch ``Jet/Jet.PT``, files written by uproot ``Jet.PT``; both are found by the
branch's own name. Of several cycles of the tree, the highest counts. Everything that is wrong with
a file becomes an `Unreadable` with a reason; I/O errors stay OSErrors, as a retry may help.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import awkward as ak
import numpy as np
import uproot
from awkward.contents import ListOffsetArray, NumpyArray, RecordArray
from awkward.index import Index64
from uproot.language import Language

from hepflow.errors import DataError, NoCredentials
from hepflow.reading import limits
from hepflow.reading.ends import SMALLEST, EndsFirst
from hepflow.schema import ALIASES, COLLECTIONS, OPTIONAL, TREE
from hepflow.system.remote import as_io_error, is_remote, set_timeout, source
from hepflow.system.store_options import options_of

STEP_BYTES = 48 << 20  # uncompressed bytes of the wanted branches in memory at a time
Wanted = Mapping[str, Mapping[str, str]]  # collection -> field -> type, as `COLLECTIONS`
# I/O errors that a retry does not help
_HOPELESS = {PermissionError: "permission denied", FileNotFoundError: "no such file"}
_HOPELESS |= {IsADirectoryError: "a folder, not a file"}


class Unreadable(DataError):
    """A file, or entries of it, that cannot be read; the text is the reason."""


class OutOfMemory(Unreadable):
    """Entries for which this process has too little memory; another one may read them."""


class DelphesFile:
    """An open file, local or at a URL, of which only the wanted collections and fields are read.

    Opening raises `Unreadable` if the file is empty, not ROOT, truncated, or has no such tree, and
    an OSError if the file system failed and a retry may help.
    """

    def __init__(
        self, path: str, tree: str = TREE, wanted: Wanted = COLLECTIONS, timeout_s: float = 60.0
    ) -> None:
        self.path, self.wanted = path, wanted
        limits.restart()
        with ExitStack() as stack:
            with _explained(path, "not a ROOT file, or a damaged one"):
                self._file, size = _open(path, timeout_s, stack)
            if size < self._file.fEND:
                raise Unreadable(f"truncated: {size:,} bytes of {self._file.fEND:,}")
            with _explained(path, "damaged directory or tree"):
                root = self._file.root_directory
                names = root.keys(cycle=False)
                if tree not in names:
                    raise Unreadable(f"no tree {tree!r} (it has: {_some(names)})")
                self._tree = root[tree]
            if not isinstance(self._tree, uproot.TTree):
                raise Unreadable(f"{tree!r} is a {root.classname_of(tree)}, not a TTree")
            if self.n_entries < 0:
                raise Unreadable(f"damaged directory or tree ({self.n_entries} entries)")
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def uuid(self) -> bytes:
        """Identity of the file, the same for its copies; 16 bytes."""
        return self._file.uuid.bytes

    @property
    def n_entries(self) -> int:
        """Entries of the tree."""
        return int(self._tree.num_entries)

    @cached_property
    def branches(self) -> dict[str, dict[str, str]]:
        """Collection -> field -> name of its branch, without optional fields that are missing."""
        groups: dict[str, list[str]] = {}
        for name in self._tree.keys(full_paths=False):
            group, dot, field = name.partition(".")
            if dot:
                groups.setdefault(group, []).append(field)
        found = {name: _find(name, fields, groups) for name, fields in self.wanted.items()}
        for collection, branches in found.items():
            for field, branch in branches.items():
                _check_type(self._tree[branch], self.wanted[collection][field])
        return found

    @property
    def filled(self) -> tuple[str, ...]:
        """Optional fields that are wanted and that the file does not have."""
        wanted = ((name, field) for name, fields in self.wanted.items() for field in fields)
        return tuple(f"{name}.{f}" for name, f in wanted if f not in self.branches[name])

    @cached_property
    def boundaries(self) -> list[int]:
        """Entries at which the baskets of all wanted branches start, and the number of entries."""
        names = set(self._names)
        common = self._tree.common_entry_offsets(filter_branch=lambda branch: branch.name in names)
        return sorted({0, *(entry for entry in common if entry < self.n_entries), self.n_entries})

    def compressed_bytes(self, start: int, stop: int) -> int:
        """Return the approximate size, in the file, of what `iterate` reads."""
        n_bytes = sum(self._tree[name].compressed_bytes for name in self._names)
        return n_bytes * (stop - start) // max(self.n_entries, 1)

    def iterate(
        self, start: int, stop: int, step_bytes: int = STEP_BYTES
    ) -> Iterator[tuple[int, int, ak.Array | Unreadable]]:
        """Read a range of entries in steps of bounded memory, and go on behind damaged baskets.

        Yields the first entry, the one past the last, and records with one list of structs per
        collection, or why the entries are lost. If start and stop are two of `boundaries`, each
        basket is decompressed once.
        """
        size = sum(self._tree[name].uncompressed_bytes for name in self._names)
        step = max(1, int(step_bytes * self.n_entries // max(size, 1)))
        inside = [edge for edge in self.boundaries if start < edge < stop]
        edges = [start, *inside, stop] if start < stop else []
        first = 0
        while first + 1 < len(edges):
            fitting = int(np.searchsorted(edges, edges[first] + step, side="right")) - 1
            last = max(first + 1, fitting)
            yield from self._read(edges[first : last + 1], step)
            first = last

    def _read(
        self, edges: list[int], step: int
    ) -> Iterator[tuple[int, int, ak.Array | Unreadable]]:
        """Read whole clusters at once; if that fails, in halves down to the damaged cluster."""
        entry, stop = edges[0], edges[-1]
        limits.restart()
        try:
            # A cluster larger than a step comes in several, and uproot keeps the baskets between.
            how: Any = {"step_size": step, "library": "ak", "language": _Branches()}
            steps = self._tree.iterate(self._names, entry_start=entry, entry_stop=stop, **how)
            for arrays in steps:
                contents = [self._structs(arrays, collection) for collection in self.branches]
                events = ak.Array(RecordArray(contents, list(self.branches), length=len(arrays)))
                yield entry, entry + len(events), events
                entry += len(events)
            if entry < stop:
                raise ValueError("the tree counts more entries than its branches")
        except Exception as error:
            if (io_error := _io_error(error, self.path)) is not None:
                raise io_error from error
            if len(edges) > 2 and entry == edges[0]:
                half = len(edges) // 2
                yield from self._read(edges[: half + 1], step)
                yield from self._read(edges[half:], step)
            else:
                kind = _kind_of(error)
                what = "corrupt baskets" if kind is Unreadable else "out of memory"
                reason = f"{what} in entries {entry} to {stop} ({_brief(error)})"
                yield entry, stop, kind(reason)

    def _structs(self, arrays: ak.Array, collection: str) -> ListOffsetArray:
        """Return the branches of a collection as lists of structs, which share their offsets."""
        offsets, contents = None, {}
        fields = self.wanted[collection]
        for field, branch in self.branches[collection].items():
            layout = arrays[branch].layout.to_ListOffsetArray64(True)
            own = layout.offsets.data
            if offsets is None:
                offsets = own
            elif not np.array_equal(offsets, own):
                raise ValueError(f"branches of {collection} differ in length")
            contents[field] = _cast(ak.to_numpy(layout.content[: own[-1]]), fields[field])
        assert offsets is not None, "a collection has at least one branch"
        for field in fields.keys() - contents.keys():
            contents[field] = np.full(offsets[-1], OPTIONAL[collection][field], fields[field])
        columns = [NumpyArray(contents[field]) for field in fields]
        return ListOffsetArray(Index64(offsets), RecordArray(columns, list(fields)))

    @cached_property
    def _names(self) -> list[str]:
        return [branch for fields in self.branches.values() for branch in fields.values()]


class _Branches(Language):
    """Names of branches and nothing else: uproot's own language runs the aliases in a file."""

    def free_symbols(self, expression: str, *_: Any) -> list[str]:
        """Refuse what is no branch."""
        raise Unreadable(f"no branch {expression!r}")

    def compute_expressions(self, _: Any, arrays: Any, wanted: Any, *__: Any) -> dict[str, Any]:
        """Return the arrays of the branches."""
        return {name: arrays[of["branches"][0].cache_key] for name, of in wanted}


def read_delphes(path: Path | str, start: int = 0, stop: int | None = None) -> ak.Array:
    """Return events of a Delphes ROOT file, (n,) records with one list of structs per collection.

    ``path`` may be a URL; ``stop`` is the entry after the last (default: all).
    """
    chunks = []
    with DelphesFile(str(path)) as file:
        last = file.n_entries if stop is None else min(stop, file.n_entries)
        for _, _, events in file.iterate(start, last):
            if isinstance(events, Unreadable):
                raise DataError(f"{path}: {events}. Repair the file, or read other entries.")
            chunks.append(events)
    return ak.concatenate(chunks)


@contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    """Raise any error of the block as an OSError if a retry may help, else as Unreadable."""
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        reason = f"{what} ({_brief(error)})"
        raise _io_error(error, path) or _kind_of(error)(reason) from error


def _open(path: str, timeout_s: float, stack: ExitStack) -> tuple[uproot.ReadOnlyFile, int]:
    """Return the file and its size."""
    if is_remote(path):
        set_timeout(path, timeout_s)
        found, n_bytes = source(path, stack)
        if n_bytes is not None and n_bytes < SMALLEST:
            raise Unreadable("not a ROOT file" if n_bytes else "an empty file")
        options = {**options_of(path), "handler": EndsFirst if isinstance(found, str) else None}
        file = stack.enter_context(uproot.reading.ReadOnlyFile(found, **options))
        return file, file.source.num_bytes if n_bytes is None else n_bytes
    # Our own handle: its errors have an errno, and if a file that is mapped to memory shrinks, the
    # process is killed.
    stream = stack.enter_context(io.FileIO(path))
    size = os.fstat(stream.fileno()).st_size
    if size < SMALLEST or stream.read(4) != b"root":
        raise Unreadable("not a ROOT file" if size else "an empty file")
    return stack.enter_context(uproot.reading.ReadOnlyFile(stream)), size


def _io_error(error: Exception, path: str) -> OSError | Unreadable | None:
    """Return an error of the file system: an OSError if a retry may help, else Unreadable."""
    found = as_io_error(error) if is_remote(path) else error
    # For local files, uproot reports its own short reads as OSErrors without an errno.
    if not isinstance(found, OSError) or (found.errno is None and not is_remote(path)):
        return None
    if isinstance(found, NoCredentials):
        return found
    for kind, reason in _HOPELESS.items():
        if isinstance(found, kind):
            return Unreadable(reason)
    return OSError(*(found.args or [type(found).__name__]))


def _kind_of(error: Exception) -> type[Unreadable]:
    return OutOfMemory if isinstance(error, MemoryError) else Unreadable


def _find(
    collection: str, fields: Iterable[str], groups: Mapping[str, list[str]]
) -> dict[str, str]:
    """Return the branch of each field of a collection; ``groups`` are the fields in the file."""
    group = next((name for name in (collection, ALIASES.get(collection)) if name in groups), None)
    if group is None:
        hint = " Was it written with the EFlow branches?" if collection.startswith("EFlow") else ""
        raise Unreadable(f"no collection {collection!r} (it has: {_some(groups)}).{hint}")
    present = [field for field in fields if field in groups[group]]
    optional = OPTIONAL.get(collection, {}) if present else {}
    for field in fields:
        if field not in present and field not in optional:
            raise Unreadable(f"no field {group}.{field} (it has: {_some(groups[group])})")
    return {field: f"{group}.{field}" for field in present}


def _check_type(branch: uproot.TBranch, kind: str) -> None:
    found = branch.interpretation
    jagged = isinstance(found, uproot.AsJagged) and isinstance(found.content, uproot.AsDtype)
    numbers = found.content.to_dtype if jagged else None
    if numbers is None or numbers.shape or not np.can_cast(numbers, kind, casting="same_kind"):
        raise Unreadable(f"{branch.name} holds {branch.typename}, not a list of {kind} per event")


def _cast(values: np.ndarray, kind: str) -> np.ndarray:
    """Return values in another type: unsigned flags keep their bits, too large numbers fail."""
    cast = values.astype(kind, copy=False)
    narrowed = values.dtype.itemsize > cast.dtype.itemsize and values.dtype.kind in "iu"
    if narrowed and not np.array_equal(cast, values):
        raise ValueError(f"numbers too large for {kind}")
    return cast


def _some(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return (", ".join(unique[:8]) + (" …" if len(unique) > 8 else "")) or "nothing"


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
