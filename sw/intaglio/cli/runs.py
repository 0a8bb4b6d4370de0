"""Run folders, as the commands see them."""

from pathlib import Path
from typing import Any

from intaglio.spec.errors import IntaglioError

__all__ = ["class_names", "load_model", "load_twin", "run_digest"]

#: What of a checkpoint are weights and statistics, as opposed to the state of the optimiser.
_WEIGHTS = ("parameter.", "exponent.", "buffer.")


def run_digest(run: Path) -> str:
    """Return the digest of the weights in the checkpoint of ``run``, as in its metrics.json.

    Raises
    ------
    IntaglioError
        No checkpoint, or a damaged one.
    """
    from intaglio.spec.files import array_digest
    from intaglio.train.checkpoint import load_arrays

    arrays = load_arrays(run / "checkpoint.npz")
    return array_digest({k: v for k, v in arrays.items() if k.startswith(_WEIGHTS)})


def class_names(run: Path, model: Any, reader: Any) -> tuple[str, ...]:
    """Return the names of the classes of ``model``, the network of ``run``: those of its metrics,
    if there are any yet, else those that ``reader`` of its data set knows, else numbers.

    Raises
    ------
    IntaglioError
        Broken metrics.
    """
    from intaglio.train.checkpoint import read_json

    count = len(model.get_parameter(model.CLASSIFIER))
    path = run / "metrics.json"
    metrics = read_json(path) if path.is_file() else {}
    found = metrics.get("classes", ()) if isinstance(metrics, dict) else ()
    for names in (found, getattr(reader, "classes", ())):
        if len(names) == count:
            return tuple(names)
    return tuple(str(k) for k in range(count))


def load_model(run: Path, *, expected: str = "") -> Any:
    """Return the integer network of ``run``, in eval mode.

    Raises
    ------
    IntaglioError
        No run, a damaged one, or weights with another digest than ``expected`` (if not empty).
    """
    from intaglio.train import load_run

    model, _ = load_run(run)
    if expected:
        found = run_digest(run)
        if found != expected:
            raise IntaglioError(
                f"{run}: the checkpoint is {found[:12]}, the model was frozen from "
                f"{expected[:12]}; renew it with 'intaglio freeze {run}'"
            )
    return model


def load_twin(run: Path) -> Any:
    """Return the float32 twin of ``run`` in eval mode, or None when none was trained.

    Raises
    ------
    IntaglioError
        A damaged file.
    """
    from intaglio.nn.models import build_twin
    from intaglio.train import checkpoint, load_run

    path = run / "twin.npz"
    if not path.is_file():
        return None
    model, _ = load_run(run)
    twin = build_twin(model)
    try:
        checkpoint.load_model(twin, checkpoint.load_arrays(path))
    except (KeyError, ValueError) as error:
        raise IntaglioError(f"{path}: not a checkpoint of this network ({error})") from error
    return twin.eval()
