"""The output of a topic as many micro-batches leave it, made from that of a few."""

import shutil
from dataclasses import replace
from pathlib import Path

from hepflow.data.task_records import RECORDS
from hepflow.score.folder import CHECKPOINT
from hepflow.score.kafka.folder import name_of
from hepflow.score.record import ScoreRecord
from hepflow.score.tables import RECENT
from hepflow.system.files import read_json, write_json

PER_FILE = 2400  # micro-batches in ten minutes, at four per second
RETAINED = 100  # by Spark, of its own files


def lengthen(output: Path, n: int) -> int:
    """Put ``n`` micro-batches before those of a stream that ended well; return how many are merged.

    Their scores are copies. The last ones are not merged yet, as after a crash.
    """
    (path,), (scores,) = (output / RECORDS).iterdir(), output.glob("*.parquet")
    record = ScoreRecord.from_dict(read_json(path))
    last = int(record.key.rpartition("-")[2])
    for part in ("offsets", "commits"):
        of_spark = output / CHECKPOINT / part
        for checksum in of_spark.glob(".*.crc"):
            checksum.unlink()
        for number in range(last, -1, -1):
            (of_spark / str(number)).rename(of_spark / str(number + n))
        for number in range(n - RETAINED, n):
            shutil.copyfile(of_spark / str(n), of_spark / str(number))

    def put(name: str, fragment: str, **changed: object) -> None:
        shutil.copyfile(scores, output / fragment)
        replace(record, key=name, fragment=fragment, **changed).write(output)

    firsts = range(0, n - PER_FILE, PER_FILE)
    for first in firsts:
        name = f"{name_of(first)}-{first + PER_FILE - 1:08d}"
        put(name, f"{name}.parquet")
    for number in range(firsts[-1] + PER_FILE, n + last + 1):
        messages = {f"{number:016x}": f"other[0]@{number}"}
        put(name_of(number), f"{RECENT}/{name_of(number)}.parquet", messages=messages)
    kept = output / RECENT / "messages.json"
    write_json(kept, read_json(kept) | {f"{i:017x}": f"other[1]@{i}" for i in range(95_000)})
    path.unlink()
    scores.unlink()
    return len(firsts)
