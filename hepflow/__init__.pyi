"""The public API, sorted by what it is for. docs/api/index.md has an example for each name."""

# configurations of stages, as on the command line and in YAML
from .config.engines import ClusterConfig as ClusterConfig
from .config.engines import SparkConfig as SparkConfig
from .config.score import ScoreConfig as ScoreConfig
from .config.shipped import shipped as shipped
from .config.stages import EvaluateConfig as EvaluateConfig
from .config.stages import FeaturesConfig as FeaturesConfig
from .config.stages import IngestConfig as IngestConfig
from .config.stages import SimulateConfig as SimulateConfig

# data: ROOT files, datasets of events, feature stores
from .data.events import open_events as open_events
from .data.store import open_store as open_store

# clusters
from .engines.dask import dask_client as dask_client
from .engines.spark import spark_session as spark_session

# runs and reports
from .evaluate.job import evaluate_runs as evaluate_runs
from .evaluate.runs import read_runs as read_runs

# nets
from .models.hlf import HLFNet as HLFNet
from .models.inclusive import InclusiveNet as InclusiveNet
from .models.sequence import SequenceNet as SequenceNet
from .models.transformer import TransformerNet as TransformerNet

# physics: awkward events -> the trigger's decision and the features
from .physics.features import compute_features as compute_features
from .physics.selection import isolations as isolations
from .physics.selection import passes as passes
from .reading.delphes import read_delphes as read_delphes

# a trained net on raw events
from .score.scorer import Scorer as Scorer

# training
from .train.data import EventData as EventData
from .train.loading.memory import batches_of_events as batches_of_events
from .train.module import Classifier as Classifier
