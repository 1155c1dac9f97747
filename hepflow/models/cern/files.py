"""A file of a published net -> the net, or a line that says why it is none."""

from hashlib import blake2b
from pathlib import Path

from hepflow.errors import DataError, one_line
from hepflow.models.cern import bigdl, keras
from hepflow.models.cern.net import PublishedNet
from hepflow.system.storage import read_bytes

MAX_BYTES = 2**28
"""Size above which a file is none of the nets, which have some 100 kB."""
_GIVE = "Give one of the published files (see docs/import-cern.md)."


def open_net(path: Path) -> tuple[PublishedNet, str]:
    """Return the net of a file, and a hash of its content.

    The second file of BigDL's is next to the first: ``NAME.bin`` of ``NAME.bigdl``, ``weight`` of
    ``module``; a folder with the latter two may be given instead.
    """
    if path.is_dir():
        if not (path / "module").is_file():
            what = "a folder without module and weight of BigDL"
            if (path / "saved_model.pb").is_file():
                what = "a SavedModel of TensorFlow, which is a program. Convert it to .keras, or"
                raise DataError(f"{path}: {what} {_GIVE[0].lower()}{_GIVE[1:]}")
            raise DataError(f"{path}: {what}. {_GIVE}")
        path = path / "module"
    content = _read(path)
    if content.startswith(bigdl.MAGIC):
        where = f"{path.with_suffix('.bigdl').name}, or the folder of module and weight"
        raise DataError(f"{path}: the weights alone of a net of BigDL. Give {where}.")
    weights = None
    try:
        if content.startswith(keras.HDF5):
            net = keras.read_h5(content)
        elif content.startswith(keras.ZIP):
            net = keras.read_keras(content)
        else:
            second = path.parent / "weight" if path.name == "module" else path.with_suffix(".bin")
            weights = _read(second) if second != path and second.is_file() else None
            net = bigdl.read_bigdl(content, weights)
    except (*keras.WRONG, *bigdl.WRONG) as error:
        why = one_line(error)
        if type(error) is not ValueError:
            why = f"it is damaged, or not what Keras or BigDL write ({type(error).__name__}: {why})"
        raise DataError(f"{path}: no net that hepflow reads: {why}. {_GIVE}") from error
    return net, blake2b(content + (weights or b""), digest_size=8).hexdigest()


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path}: no such file. {_GIVE}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes, so it is no published net. {_GIVE}")
    return read_bytes(path)
