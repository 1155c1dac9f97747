"""Bounds of the numbers in a configuration."""

from hepflow.errors import ConfigError


def positive(config: object, *names: str, within: str = "") -> None:
    """Refuse a field below 1."""
    _at_least(1, config, names, within)


def not_negative(config: object, *names: str, within: str = "") -> None:
    """Refuse a field below 0."""
    _at_least(0, config, names, within)


def _at_least(least: int, config: object, names: tuple[str, ...], within: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= least:  # which NaN is not either
            raise ConfigError(f"{within}{name} must be at least {least}, got {value}")
