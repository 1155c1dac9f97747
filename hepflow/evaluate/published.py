"""What others published for the same three classifiers, with the place each number stands. Another sample: never a like-for-like."""

from dataclasses import dataclass
from types import MappingProxyType

NOTE = (
    "The published numbers come from another sample (the 2019 Delphes production at CERN: about 3.4 million training and 856,090 "
    "test events, balanced classes). They show what scale to expect; a difference to them says nothing about a model."
)
REPOSITORY = "https://github.com/cerndb/SparkDLTrigger"
PAPER = "https://arxiv.org/abs/1909.10389"


@dataclass(frozen=True)
class Published:
    """One line of the comparison."""

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


def _aucs(qcd: float | None = None, ttbar: float | None = None, wjets: float | None = None) -> MappingProxyType[str, float]:
    given = {"qcd": qcd, "ttbar": ttbar, "wjets": wjets}
    return MappingProxyType({name: value for name, value in given.items() if value is not None})


TEST_EVENTS = 856_090
TABLE = (
    Published("HLF", "headline figure", "Docs/ROC_and_AUC.png", REPOSITORY, _aucs(qcd=0.9821)),
    Published("Particle-sequence", "headline figure", "Docs/ROC_and_AUC.png", REPOSITORY, _aucs(qcd=0.9906)),
    Published("Inclusive", "headline figure", "Docs/ROC_and_AUC.png", REPOSITORY, _aucs(qcd=0.9929)),
    Published("HLF", "BigDL, 144 cores", "BigDL notebook", REPOSITORY, _aucs(qcd=0.9819), 0.9017, "12 epochs in 4m25s", 155_000),
    Published(
        "Particle-sequence", "BigDL, 420 cores", "BigDL notebook", REPOSITORY, _aucs(qcd=0.9907), 0.9394, "50 epochs in 9h25m", 5_049
    ),
    Published("Inclusive", "BigDL, 360 cores", "BigDL notebook", REPOSITORY, _aucs(qcd=0.9942), 0.9517, "50 epochs in 8h25m", 5_654),
    Published("HLF", "Keras, T4 GPU", "Keras notebook", REPOSITORY, _aucs(0.98741, 0.98548, 0.98129), 0.9156, "5 epochs in 5m17s", 54_000),
    Published("HLF", "PyTorch, GPU", "PyTorch notebook", REPOSITORY, _aucs(0.98446, 0.97832, 0.97492), 0.9101, "5 epochs in 9m48s", 29_000),
    Published(
        "HLF", "Lightning, GPU", "Lightning notebook", REPOSITORY, _aucs(0.98274, 0.97658, 0.97216), 0.9092, "5 epochs in 21m05s", 13_500
    ),
    Published(
        "Inclusive", "Keras, P100 GPU", "GRU notebook", REPOSITORY, _aucs(0.99535, 0.99726, 0.99537), 0.9573, "6 epochs in 2h17m", 2_496
    ),
    Published(
        "Inclusive (LSTM)",
        "Keras, P100 GPU",
        "LSTM notebook",
        REPOSITORY,
        _aucs(0.99551, 0.99714, 0.99570),
        0.9591,
        "6 epochs in 1h32m",
        3_742,
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
        "Inclusive", "Keras, T4 GPU", "2024 notebook", REPOSITORY, _aucs(0.99503, 0.99693, 0.99473), None, "6 epochs in 2h02m", 2_799
    ),
    Published(
        "Transformer", "Keras, T4 GPU", "2024 notebook", REPOSITORY, _aucs(0.99364, 0.99482, 0.99229), 0.9462, "6 epochs in 17h27m", 327
    ),
    Published("Random forest", "Spark, YARN", "tree notebook", REPOSITORY, _aucs(), 0.9078, "2m22s"),
    Published("XGBoost", "Spark, YARN", "tree notebook", REPOSITORY, _aucs(), 0.9205, "2m07s"),
    Published("LightGBM", "Spark, YARN", "tree notebook", REPOSITORY, _aucs(), 0.9186),
)
CLAIM = (
    "Nguyen et al. (arXiv:1807.00083) state that about 99 % of the interesting events can be kept while the false-positive rate falls "
    "by as much as one order of magnitude for certain background processes."
)
