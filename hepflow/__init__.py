"""From Delphes ROOT files to a trained event-topology trigger, on Spark, Dask and Lightning.

These are the public names, with an example each in docs/api/index.md. A name is imported when it
is first used: ``import hepflow`` loads neither torch nor Spark, Dask or numba.
"""

import os
from typing import TYPE_CHECKING

import lazy_loader

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # which also writes to a known name in /tmp

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        # configurations of stages, as on the command line and in YAML
        "config.engines": ["ClusterConfig", "SparkConfig"],
        "config.score": ["ScoreConfig"],
        "config.shipped": ["shipped"],
        "config.stages": ["EvaluateConfig", "FeaturesConfig", "IngestConfig", "SimulateConfig"],
        # data: ROOT files, datasets of events, feature stores
        "data.events": ["open_events"],
        "data.store": ["open_store"],
        "reading.delphes": ["read_delphes"],
        # clusters
        "engines.dask": ["dask_client"],
        "engines.spark": ["spark_session"],
        # physics: awkward events -> the trigger's decision and the features
        "physics.features": ["compute_features"],
        "physics.selection": ["isolations", "passes"],
        # nets, their training, and trained nets on raw events
        "models.hlf": ["HLFNet"],
        "models.inclusive": ["InclusiveNet"],
        "models.sequence": ["SequenceNet"],
        "models.transformer": ["TransformerNet"],
        "train.data": ["EventData"],
        "train.loading.memory": ["batches_of_events"],
        "train.module": ["Classifier"],
        "score.scorer": ["Scorer"],
        # runs and reports
        "evaluate.job": ["evaluate_runs"],
        "evaluate.runs": ["read_runs"],
    },
)

if TYPE_CHECKING:  # the same names for editors and mypy; tests/test_api.py compares them
    from hepflow.config.engines import ClusterConfig as ClusterConfig
    from hepflow.config.engines import SparkConfig as SparkConfig
    from hepflow.config.score import ScoreConfig as ScoreConfig
    from hepflow.config.shipped import shipped as shipped
    from hepflow.config.stages import EvaluateConfig as EvaluateConfig
    from hepflow.config.stages import FeaturesConfig as FeaturesConfig
    from hepflow.config.stages import IngestConfig as IngestConfig
    from hepflow.config.stages import SimulateConfig as SimulateConfig
    from hepflow.data.events import open_events as open_events
    from hepflow.data.store import open_store as open_store
    from hepflow.engines.dask import dask_client as dask_client
    from hepflow.engines.spark import spark_session as spark_session
    from hepflow.evaluate.job import evaluate_runs as evaluate_runs
    from hepflow.evaluate.runs import read_runs as read_runs
    from hepflow.models.hlf import HLFNet as HLFNet
    from hepflow.models.inclusive import InclusiveNet as InclusiveNet
    from hepflow.models.sequence import SequenceNet as SequenceNet
    from hepflow.models.transformer import TransformerNet as TransformerNet
    from hepflow.physics.features import compute_features as compute_features
    from hepflow.physics.selection import isolations as isolations
    from hepflow.physics.selection import passes as passes
    from hepflow.reading.delphes import read_delphes as read_delphes
    from hepflow.score.scorer import Scorer as Scorer
    from hepflow.train.data import EventData as EventData
    from hepflow.train.loading.memory import batches_of_events as batches_of_events
    from hepflow.train.module import Classifier as Classifier
