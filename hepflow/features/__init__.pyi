"""Names of this stage for notebooks and scripts."""

from .job import compare_definitions as compare_definitions
from .job import run as run
