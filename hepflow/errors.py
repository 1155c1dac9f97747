"""The errors that a user can cause. The CLI prints them in one line and exits with their status."""


class HepflowError(Exception):
    """Error of a user: where, what is wrong, and what to do, in one line."""

    status = 2
    """Exit status of the command."""

    def __str__(self) -> str:
        """Return the text in one line, also if it quotes several of a library, or such a name."""
        return super().__str__().replace("\n", "\N{SYMBOL FOR LINE FEED}")


class ConfigError(HepflowError):
    """An option or a configuration file has an impossible value."""


class DataError(HepflowError):
    """An input file, dataset or store is missing, damaged or of the wrong kind."""


class MissingDependency(HepflowError):
    """A program or an optional package that the stage needs is not installed."""


class NoCredentials(HepflowError, PermissionError):
    """A remote store does not know who asks: no ticket, token or key, or an expired one.

    It is no property of a file, so it ends a run, and no file is counted as lost.
    """


class LimitExceeded(HepflowError):
    """A number is above the limit that the user has set for it, which fails a job of a CI."""

    status = 1


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line."""
    return " ".join(str(error).split())
