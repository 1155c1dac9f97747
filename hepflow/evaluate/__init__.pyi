"""Names of this stage for notebooks and scripts."""

from .charts import display as display
from .figures import Display as Display
from .figures.plots import CLASS_COLOURS as CLASS_COLOURS
from .figures.plots import DASHES as DASHES
from .figures.plots import KIND_COLOURS as KIND_COLOURS
from .figures.plots import MODEL_COLOURS as MODEL_COLOURS
from .figures.plots import STYLE as STYLE
from .figures.plots import draw as draw
from .job import evaluate_runs as evaluate_runs
from .job import run as run
from .kinematics import describe as describe
from .kinematics import join as join
from .runs import read_runs as read_runs
from .tables import differences as differences
from .tables import for_terminal as for_terminal
from .tables import models as models
from .tables import summary_table as summary_table
from .tables import working_points as working_points
from .text import headline as headline
from .text import rate_sentence as rate_sentence
