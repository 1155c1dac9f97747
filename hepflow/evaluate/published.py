"""What others published for the same pipeline and classifiers, with the place each number stands.

Other machines and another sample: a scale, never a like-for-like.
"""

from dataclasses import dataclass
from types import MappingProxyType

NOTE = (
    "The published numbers come from another sample (the 2019 Delphes production at CERN: about 3.4 million training and 856,090 "
    "test events, balanced classes). They show what scale to expect; a difference to them says nothing about a model."
)
REPOSITORY = "https://github.com/cerndb/SparkDLTrigger"
PAPER = "https://arxiv.org/abs/1909.10389"


@dataclass(frozen=True)
class Rate:
    """A throughput."""

    stage: str
    """As the stages are named here."""
    what: str
    machine: str
    date: str
    events_per_s: float
    source: str
    cores: int | None = None
    """Where it ran on cores."""


HLF_BIGDL = Rate("train hlf", "BigDL", "Spark on YARN, 144 cores", "2019", 155_000, REPOSITORY, 144)
SEQUENCE_BIGDL = Rate(
    "train sequence",
    "BigDL, full training",
    "Spark on YARN, 420 cores",
    "2019",
    5049,
    REPOSITORY,
    420,
)
INCLUSIVE_BIGDL = Rate(
    "train inclusive",
    "BigDL, full training",
    "Spark on YARN, 360 cores",
    "2019",
    5654,
    REPOSITORY,
    360,
)
INCLUSIVE_GRU = Rate("train inclusive", "Keras, GRU", "P100", "2019", 2496, REPOSITORY)
INCLUSIVE_LSTM = Rate("train inclusive", "Keras, LSTM", "P100", "2019", 3742, REPOSITORY)
RATES = (
    Rate(
        "ingest+features",
        "Spark 2.4 SQL with higher-order functions",
        "YARN, 400 cores",
        "2019",
        6910,
        REPOSITORY,
        400,
    ),
    Rate(
        "ingest+features", "Spark 2.4, Python map", "YARN, 400 cores", "2019", 4689, REPOSITORY, 400
    ),
    HLF_BIGDL,
    Rate(
        "train inclusive",
        "BigDL, scaling plot",
        "Spark on YARN, 132 cores",
        "2019",
        5200,
        PAPER,
        132,
    ),
    INCLUSIVE_BIGDL,
    SEQUENCE_BIGDL,
    Rate("train inclusive", "Keras, one process", "24-core machine", "2019", 60, PAPER, 24),
    Rate("train inclusive", "Keras", "GTX1080", "2019", 950, PAPER),
    INCLUSIVE_GRU,
    INCLUSIVE_LSTM,
)


@dataclass(frozen=True)
class Published:
    """What a training of a classifier reached."""

    model: str
    """``HLF``, ``Particle-sequence``, ``Inclusive``, ..."""
    run: str
    """Software and hardware."""
    where: str
    """Document or notebook in the source."""
    source: str
    """Address."""
    auc: MappingProxyType[str, float]
    """Class -> one-vs-rest AUC, where given."""
    accuracy: float | None = None
    training: str = ""
    """Epochs, batch, wall time, where given."""
    train_events_per_s: float | None = None
    """Worked out from those."""


def _aucs(
    qcd: float | None = None, ttbar: float | None = None, wjets: float | None = None
) -> MappingProxyType[str, float]:
    given = {"qcd": qcd, "ttbar": ttbar, "wjets": wjets}
    return MappingProxyType({name: value for name, value in given.items() if value is not None})


TEST_EVENTS = 856_090
TABLE = (
    Published("HLF", "headline figure", "Docs/ROC_and_AUC.png", REPOSITORY, _aucs(qcd=0.9821)),
    Published(
        "Particle-sequence",
        "headline figure",
        "Docs/ROC_and_AUC.png",
        REPOSITORY,
        _aucs(qcd=0.9906),
    ),
    Published(
        "Inclusive", "headline figure", "Docs/ROC_and_AUC.png", REPOSITORY, _aucs(qcd=0.9929)
    ),
    Published(
        "HLF",
        "BigDL, 144 cores",
        "BigDL notebook",
        REPOSITORY,
        _aucs(qcd=0.9819),
        0.9017,
        "12 epochs in 4m25s",
        HLF_BIGDL.events_per_s,
    ),
    Published(
        "Particle-sequence",
        "BigDL, 420 cores",
        "BigDL notebook",
        REPOSITORY,
        _aucs(qcd=0.9907),
        0.9394,
        "50 epochs in 9h25m",
        SEQUENCE_BIGDL.events_per_s,
    ),
    Published(
        "Inclusive",
        "BigDL, 360 cores",
        "BigDL notebook",
        REPOSITORY,
        _aucs(qcd=0.9942),
        0.9517,
        "50 epochs in 8h25m",
        INCLUSIVE_BIGDL.events_per_s,
    ),
    Published(
        "HLF",
        "Keras, T4 GPU",
        "Keras notebook",
        REPOSITORY,
        _aucs(0.98741, 0.98548, 0.98129),
        0.9156,
        "5 epochs in 5m17s",
        54_000,
    ),
    Published(
        "HLF",
        "PyTorch, GPU",
        "PyTorch notebook",
        REPOSITORY,
        _aucs(0.98446, 0.97832, 0.97492),
        0.9101,
        "5 epochs in 9m48s",
        29_000,
    ),
    Published(
        "HLF",
        "Lightning, GPU",
        "Lightning notebook",
        REPOSITORY,
        _aucs(0.98274, 0.97658, 0.97216),
        0.9092,
        "5 epochs in 21m05s",
        13_500,
    ),
    Published(
        "Inclusive",
        "Keras, P100 GPU",
        "GRU notebook",
        REPOSITORY,
        _aucs(0.99535, 0.99726, 0.99537),
        0.9573,
        "6 epochs in 2h17m",
        INCLUSIVE_GRU.events_per_s,
    ),
    Published(
        "Inclusive (LSTM)",
        "Keras, P100 GPU",
        "LSTM notebook",
        REPOSITORY,
        _aucs(0.99551, 0.99714, 0.99570),
        0.9591,
        "6 epochs in 1h32m",
        INCLUSIVE_LSTM.events_per_s,
    ),
    Published(
        "Inclusive",
        "tf.distribute, 24 cores",
        "multi-worker notebook",
        REPOSITORY,
        _aucs(0.99562, 0.99724, 0.99524),
        0.9596,
        "6 epochs in 7h45m",
        737,
    ),
    Published(
        "Inclusive",
        "Keras, T4 GPU",
        "2024 notebook",
        REPOSITORY,
        _aucs(0.99503, 0.99693, 0.99473),
        None,
        "6 epochs in 2h02m",
        2_799,
    ),
    Published(
        "Transformer",
        "Keras, T4 GPU",
        "2024 notebook",
        REPOSITORY,
        _aucs(0.99364, 0.99482, 0.99229),
        0.9462,
        "6 epochs in 17h27m",
        327,
    ),
    Published(
        "Random forest", "Spark, YARN", "tree notebook", REPOSITORY, _aucs(), 0.9078, "2m22s"
    ),
    Published("XGBoost", "Spark, YARN", "tree notebook", REPOSITORY, _aucs(), 0.9205, "2m07s"),
    Published("LightGBM", "Spark, YARN", "tree notebook", REPOSITORY, _aucs(), 0.9186),
)
CLAIM = (
    "Nguyen et al. (arXiv:1807.00083) state that about 99 % of the interesting events can be kept while the false-positive rate falls "
    "by as much as one order of magnitude for certain background processes."
)
