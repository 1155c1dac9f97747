"""The table of commands: their configurations, functions and extras, by name."""

from typing import NamedTuple

from hepflow.config import compare, plan, score, stages, tools


class Command(NamedTuple):
    """A command: its configuration, its function, and the extra that installs what it imports."""

    config: type | None  # None if the function parses the options
    run: str  # ``module:function``, imported when the command is called
    extra: str
    about: str = ""  # default: the docstring of the configuration
    topic: str = ""
    """``module:function`` that runs instead, with the extra ``kafka``, if the input is a topic."""
    words: tuple[str, ...] = ()
    """Options whose values may be given without their names, in this order."""

    @property
    def text(self) -> str:
        """Description, in one line."""
        return " ".join((self.about or self.config.__doc__ or "").split()).rstrip(".")

    @property
    def summary(self) -> str:
        """First sentence of the description."""
        return self.text.split(". ")[0]


_TRAIN = (None, "hepflow.train.cli:main", "train")
_IN_SPARK = (None, "hepflow.train.spark.job:spark_train", "train,ingest")
_CHECK = (tools.StoreConfig, "hepflow.tools.store:check", "features")
_INFO = (tools.StoreConfig, "hepflow.tools.store:info", "features")
_TOPIC = "hepflow.score.kafka.job:run"
_DATASETS = (compare.CompareConfig, "hepflow.evaluate.datasets.job:run", "evaluate,features")
_COMPLETION = (None, "hepflow.tools.completion:script", "", "Print a shell completion script")
COMMANDS = {
    "simulate": Command(stages.SimulateConfig, "hepflow.simulate.job:run", "simulate"),
    "ingest": Command(stages.IngestConfig, "hepflow.ingest.job:run", "ingest"),
    "features": Command(stages.FeaturesConfig, "hepflow.features.job:run", "features"),
    "train fit": Command(*_TRAIN, "Train a net on the train split, then predict the test split"),
    "train validate": Command(*_TRAIN, "Loss, accuracy and AUC of a checkpoint on the val split"),
    "train test": Command(*_TRAIN, "Loss, accuracy and AUC of a checkpoint on the test split"),
    "train predict": Command(*_TRAIN, "Write a checkpoint's predictions on the test split"),
    "train find-lr": Command(*_TRAIN, "Scan learning rates on a copy of the net; suggest one"),
    "spark-train": Command(*_IN_SPARK, "Run `train fit` on CPUs inside Spark, as one barrier job"),
    "evaluate": Command(stages.EvaluateConfig, "hepflow.evaluate.job:run", "evaluate"),
    "compare": Command(*_DATASETS, words=("input", "reference")),
    "tune": Command(tools.TuneConfig, "hepflow.train.tune.job:run", "tune"),
    "trees": Command(tools.TreesConfig, "hepflow.train.trees.boosted:run", "evaluate"),
    "forest": Command(tools.ForestConfig, "hepflow.train.trees.forest:run", "evaluate,ingest"),
    "export": Command(tools.ExportConfig, "hepflow.models.export:run", "train"),
    "score": Command(score.ScoreConfig, "hepflow.score.job:run", "score", topic=_TOPIC),
    "replay": Command(score.ReplayConfig, "hepflow.score.kafka.replay:run", "kafka"),
    "store check": Command(*_CHECK, "Verify every part of a feature store"),
    "store compact": Command(
        tools.CompactConfig, "hepflow.tools.compact:run", "features", "Copy a store into few files"
    ),
    "store info": Command(*_INFO, "Show the content of a feature store"),
    "import-cern": Command(tools.ImportConfig, "hepflow.features.import_cern:run", "features"),
    "plan": Command(plan.PlanConfig, "hepflow.tools.plan.job:run", "all"),
    "bench": Command(tools.BenchConfig, "hepflow_bench.job:run", "bench"),
    "demo": Command(tools.DemoConfig, "hepflow.tools.demo:run", "all"),
    "doctor": Command(tools.DoctorConfig, "hepflow.tools.doctor:run", "all"),
    "completion": Command(*_COMPLETION),
}
"""All commands, in the order of the pipeline."""
_IN_AND_OUT = ("simulate", "ingest", "features", "store compact", "trees", "forest", "tune")
_IN = ("replay", "store check", "store info")
URLS = {
    **dict.fromkeys(_IN_AND_OUT, ("input", "output")),
    **dict.fromkeys(_IN, ("input",)),
    "ingest": ("input", "output", "only", "expected"),
    "import-cern": ("train", "test", "model", "data.store", "output"),
    "score": ("model", "input", "output", "report", "store", "only"),
    "evaluate": ("input", "output", "store"),
    "compare": ("input", "reference", "output"),
    "export": ("run", "input", "output"),
    "demo": ("output",),
    "plan": ("input", "output", "store", "runs", "scores", "only", "expected"),
}
"""Command -> its options that may be URLs of any store; other paths are of this machine."""
GROUPS = {"train": "Train classifiers with PyTorch Lightning", "store": "Inspect a feature store"}
"""First words of commands of two words."""
