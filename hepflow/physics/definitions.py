"""The two sets of definitions, taken apart into the choices that make them differ."""

from typing import NamedTuple

from hepflow.errors import ConfigError


class Definitions(NamedTuple):
    """Choices of the physics. All true: ``corrected``; all false: ``reference``, as of 2019.

    Source of the latter: 1-DataIngestion.ipynb and utilFunctions.py of cerndb/SparkDLTrigger.
    """

    wrap_phi: bool
    """Wrap the cone's azimuthal difference to [-pi, pi); the reference tests it against 2 pi, so
    in effect never wraps."""
    leave_self_out: bool
    """A candidate never counts itself, a lepton not its own tracks; the reference takes 1 off
    every charged sum."""
    leading_in_flavour: bool
    """The isolated lepton of highest pT within a flavour; the reference takes the first in file
    order."""
    flavour_by_pt: bool
    """Between an electron and a muon, the larger pT and the electron on a tie; the reference
    compares eta and prefers the muon on a tie."""
    mt_is_mass: bool
    """Transverse mass in GeV; the reference keeps its square."""
    cap_by_pt: bool
    """Over the cap, keep the candidates of highest pT; the reference keeps the first in file
    order."""
    charge_of_track: bool
    """A track's own Charge; the reference takes the sign of the particle code."""
    keep_incomplete: bool
    """Keep events without a selected track, photon or neutral hadron; the reference drops them."""


CORRECTED = Definitions(*(True for _ in Definitions._fields))
REFERENCE = Definitions(*(False for _ in Definitions._fields))
_BY_NAME = {"corrected": CORRECTED, "reference": REFERENCE}


def named(definitions: str | Definitions) -> Definitions:
    """Return the definitions of a name; pass definitions through."""
    if isinstance(definitions, Definitions):
        return definitions
    if definitions not in _BY_NAME:
        known = " or ".join(_BY_NAME)
        raise ConfigError(f"definitions: no set named {definitions!r}. Use {known}.")
    return _BY_NAME[definitions]
