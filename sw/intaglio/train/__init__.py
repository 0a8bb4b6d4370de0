"""Integer training: the run, its checkpoints, the update."""

from intaglio.train.checkpoint import weights_digest
from intaglio.train.loop import TrainConfig, evaluate_model, load_run, train
from intaglio.train.optimizer import SGD, Schedule

__all__ = [
    "SGD",
    "Schedule",
    "TrainConfig",
    "evaluate_model",
    "load_run",
    "train",
    "weights_digest",
]
