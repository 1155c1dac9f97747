"""Limits of memory for checkpoints: weights as large as their file, and a net as large as those."""

import math
import zipfile
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_SPARE = 1 << 22
"""Numbers that a net may make besides its weights, such as positions."""
_MADE = ("empty", "zeros", "ones", "full", "rand", "arange", "eye", "new_")
"""Beginnings of the names of operators that make tensors."""


class NoLarger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In its block, tensors of so many numbers together may be made; more are a ValueError.

    The arguments of a net are in its checkpoint, and a width of 100,000 takes 40 GB per layer.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = 4 * numbers + _SPARE

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, unless it makes too large a tensor."""
        name = func.overloadpacket.__name__
        if name.startswith(_MADE):
            sizes = next((one for one in args if isinstance(one, (list, tuple))), args[:1])
            self._left -= math.prod(int(size) for size in sizes if isinstance(size, int))
            if self._left < 0:
                raise ValueError("the net is larger than its weights")
        return func(*args, **(kwargs or {}))


def require_unpacked(source: Any) -> None:
    """Raise a ValueError for a checkpoint, a path or a file, that unpacks into more than it is.

    torch writes its zip files without compression, and reads others.
    """
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as file:
            if any(one.file_size > one.compress_size for one in file.infolist()):
                raise ValueError("it is compressed")
    if hasattr(source, "seek"):
        source.seek(0)
