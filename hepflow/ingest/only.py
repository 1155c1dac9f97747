"""``--only LIST``: entry ranges of a dataset of which the listed files alone are looked at again.

A dataset keeps its other files as they are, without listing the input. The listed ones are read
again if they have changed or lost events, and added if they are new, of those then only the listed
entries. As fragments are replaced whole, files that share one with a listed file come along.
"""

from collections.abc import Mapping
from typing import Any

from hepflow.config.stages import IngestConfig
from hepflow.data.file_lists import Intervals
from hepflow.ingest import dataset
from hepflow.ingest.task import Settings
from hepflow.reading.listing import assign, find_files
from hepflow.reading.ranges import EntryRange, listed, plan


def ranges_of(
    about: Mapping[str, Any] | None,
    only: Mapping[str, Intervals | None],
    settings: Settings,
    config: IngestConfig,
) -> list[EntryRange]:
    """Return all entry ranges of the dataset, in the order of a run on the whole input.

    ``about`` is the marker of the dataset, if there is one.
    """
    tasks = dataset.tasks_of(about, settings) if about is not None else []
    names = set(only)
    for task in tasks:
        own = {one.file.name for one in task}
        names |= own if own & only.keys() else set()
    kept, entries_of = list[EntryRange](), dict(only)
    for one in (one for task in tasks for one in task):
        if one.file.name not in names:
            kept.append(one)
        elif not one.entries:  # the dataset has the whole file
            entries_of[one.file.name] = None
        elif one.file.name not in only:
            before = entries_of.get(one.file.name) or []
            entries_of[one.file.name] = [*before, (one.entries[0], one.entries[1])]
    found = find_files(config.input, names, config.timeout_s)
    files = assign(found, config.samples, config.input, config.unmatched, all_of_it=False)
    for file in files:
        entries = entries_of[file.name]
        whole = plan([file], config.target_partition_mb << 20)
        kept += whole if entries is None else listed(file, sorted(entries))
    return sorted(kept)
