"""Number types with limits, and the base class of the configurations, which checks them.

jsonargparse checks the type of an option. Limits are checked when a configuration is created, so
that a wrong number gives the same error on the command line and in Python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt
from types import NoneType
from typing import Annotated, ClassVar, get_args, get_origin, get_type_hints

from hepflow.errors import ConfigError

COMPARISONS = {"at least": ge, "at most": le, "above": gt, "below": lt}
FORMER = {"former": True}
"""Metadata of a field that is accepted but not shown, as its options have another name now."""
UNUSED = {"unused": True}
"""Metadata of a field that is accepted but not shown, as files for other commands may have it."""
PositiveInt = Annotated[int, ("at least", 1)]
NonNegativeInt = Annotated[int, ("at least", 0)]
PositiveFloat = Annotated[float, ("above", 0)]
NonNegativeFloat = Annotated[float, ("at least", 0)]


@dataclass(frozen=True, kw_only=True)  # jsonargparse flattens options of pure dataclasses only
class Checked:
    """Base of the configurations: refuses numbers outside their limits, and empty lists of them."""

    within: ClassVar[str] = ""  # prefix of the options of a nested configuration

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value, of_what = getattr(self, name), get_args(kind)
            if value is None and NoneType not in of_what:  # of a key without a value
                raise ConfigError(f"{self.within}{name} has no value")
            number, values = kind, (value,)
            if get_origin(kind) is tuple:
                number, values = of_what[0], tuple(value)
            elif get_origin(kind) is Mapping:
                number, values = of_what[1], tuple(value.values())
            elif NoneType in of_what:
                number, values = of_what[0], tuple(one for one in (value,) if one is not None)
            limits = getattr(number, "__metadata__", ())
            if limits and value == ():
                raise ConfigError(f"{self.within}{name} must hold at least one value")
            for one in values:
                for words, limit in limits:
                    if not COMPARISONS[words](one, limit):  # not even NaN passes
                        raise ConfigError(f"{self.within}{name} must be {words} {limit}, got {one}")
