"""Integer training: the run, its checkpoints, the update."""

from intaglio.train.ablation import VARIANTS, ablate, choose_variants
from intaglio.train.checkpoint import weights_digest
from intaglio.train.config import TrainConfig, read_config, to_toml
from intaglio.train.loop import evaluate_model, load_run, train
from intaglio.train.optimizer import SGD
from intaglio.train.schedule import Schedule

__all__ = [
    "SGD",
    "VARIANTS",
    "Schedule",
    "TrainConfig",
    "ablate",
    "choose_variants",
    "evaluate_model",
    "load_run",
    "read_config",
    "to_toml",
    "train",
    "weights_digest",
]
