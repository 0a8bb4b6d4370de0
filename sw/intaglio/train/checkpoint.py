"""Checkpoints: one file of named arrays, written atomically, checked by its digest when read."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from intaglio.nn.int_tensor import IntTensor
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import array_digest, atomic_write

__all__ = [
    "load_arrays",
    "load_model",
    "model_arrays",
    "read_json",
    "save_arrays",
    "weights_digest",
    "write_json",
]


def model_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return parameters and buffers as arrays: integers, or the floats of a twin."""
    arrays = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, IntTensor):
            arrays[f"parameter.{name}"] = parameter.codes.cpu().numpy()
            arrays[f"exponent.{name}"] = np.array(parameter.exponent, np.int64)
        else:
            arrays[f"parameter.{name}"] = parameter.detach().cpu().numpy()
    for name, buffer in model.named_buffers():
        arrays[f"buffer.{name}"] = buffer.cpu().numpy()
    return arrays


def load_model(model: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Restore what :func:`model_arrays` returned; KeyError or ValueError where it misfits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            codes = torch.from_numpy(arrays[f"parameter.{name}"].copy())
            if isinstance(parameter, IntTensor):
                parameter.assign(codes.to(parameter.device), int(arrays[f"exponent.{name}"]))
            elif codes.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(codes.shape)}")
            else:
                parameter.copy_(codes)
        for name, buffer in model.named_buffers():
            value = torch.from_numpy(np.array(arrays[f"buffer.{name}"]))
            if value.shape != buffer.shape or value.dtype != buffer.dtype:
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}")
            buffer.copy_(value)


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over all parameters, their exponents and all running statistics."""
    return array_digest(model_arrays(model))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write ``arrays`` and their digest to ``path``: whole or not at all."""
    with atomic_write(path) as file:
        content: dict[str, Any] = {"digest": np.array(array_digest(arrays)), **arrays}
        np.savez(file, **content)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`save_arrays` wrote.

    Raises
    ------
    IntaglioError
        No such file, or one that is truncated or changed.
    """
    if not path.exists():
        raise IntaglioError(f"{path}: no such checkpoint; intaglio train --out DIR makes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        digest = str(arrays.pop("digest"))
        reason = "" if digest == array_digest(arrays) else "its digest does not fit its content"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    except Exception as error:  # zlib.error, struct.error and others, by the place of the damage
        reason = type(error).__name__
    if reason:
        raise IntaglioError(
            f"{path}: the checkpoint is damaged ({reason}); delete it and train again"
        )
    return arrays


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read JSON; IntaglioError where the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IntaglioError(f"{path}: no such file; intaglio train --out DIR makes it") from None
    except (OSError, ValueError) as error:
        raise IntaglioError(f"{path}: not readable as JSON ({error})") from None
