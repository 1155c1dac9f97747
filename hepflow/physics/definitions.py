"""The two sets of definitions, taken apart into the single choices that make them differ."""

from typing import NamedTuple

from hepflow.errors import ConfigError


class Definitions(NamedTuple):
    """What the physics may do in one way or another. All true: ``corrected``; all false: ``reference``, the pipeline of 2019.

    The reference's choices are read from its published notebook and helper functions (github.com/cerndb/SparkDLTrigger,
    1-DataIngestion.ipynb and utilFunctions.py).
    """

    wrap_phi: bool
    """Wrap the cone's azimuthal difference to [-pi, pi); the reference tests it against 2 pi, so in effect never wraps."""
    leave_self_out: bool
    """A candidate never counts itself, a lepton not the tracks on top of it; the reference takes 1 off the charged sum of everything."""
    leading_in_flavour: bool
    """Of several isolated leptons of a flavour, that of highest pT; the reference takes the first in file order."""
    flavour_by_pt: bool
    """Between an electron and a muon, the larger pT and the electron on a tie; the reference compares eta and prefers the muon on a tie."""
    mt_is_mass: bool
    """The transverse mass in GeV; the reference keeps its square."""
    cap_by_pt: bool
    """Over the cap, keep the candidates of highest pT; the reference keeps the first in file order."""
    charge_of_track: bool
    """A track's own Charge; the reference takes the sign of the particle code."""
    keep_incomplete: bool
    """Keep events without a selected track, photon or neutral hadron; the reference drops them."""


CORRECTED = Definitions(*(True for _ in Definitions._fields))
REFERENCE = Definitions(*(False for _ in Definitions._fields))
_BY_NAME = {"corrected": CORRECTED, "reference": REFERENCE}


def named(definitions: "str | Definitions") -> Definitions:
    """The definitions of a name; definitions themselves are passed through.

    Raises
    ------
    ConfigError
        There are none of that name.
    """
    if isinstance(definitions, Definitions):
        return definitions
    if definitions not in _BY_NAME:
        raise ConfigError(
            f"definitions: there are none named {definitions!r}, only {' and '.join(_BY_NAME)}"
        )
    return _BY_NAME[definitions]
