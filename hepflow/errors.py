"""The errors a user can cause. The CLI prints them in one line and exits with 2; anything else is a bug."""


class HepflowError(Exception):
    """What is wrong, where, what is allowed, what to do: in one line."""


class ConfigError(HepflowError):
    """An option or a configuration file asks for something that cannot be."""


class DataError(HepflowError):
    """An input file, dataset or store is missing, damaged or of another kind."""


class MissingDependency(HepflowError):
    """A program or an optional package that this stage needs is not installed."""


def one_line(error: Exception) -> str:
    """What any error says, for a message of one line."""
    return " ".join(str(error).split())
