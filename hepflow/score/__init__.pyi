"""Names of this stage for notebooks and scripts."""

from .job import run as run
from .scorer import Scorer as Scorer
from .tables import read_scores as read_scores
from .tables import scan_scores as scan_scores
