"""Names of this stage for notebooks and scripts."""

from .job import run as run
from .source import register as register
