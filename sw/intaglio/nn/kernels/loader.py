"""The shared library of the C kernels: built at first use, called on the memory of CPU tensors.

It is kept in ``$XDG_CACHE_HOME/intaglio`` (``~/.cache/intaglio``) under a name that depends on
sources, compiler, options and processor: the compiler chooses the instructions of this processor.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["build", "call", "loaded"]

_SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
_FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fwrapv", "-fopenmp", "-std=c11")
_RETURNS = (
    "quantize_error",
    "batch_norm_backward",
    "momentum_sum_int32_t",
    "momentum_sum_int64_t",
    "weight_step",
    "weight_step_saturated",
    "halve",
    "packed_bytes",
    *(f"maximum_{t}" for t in ("int16_t", "int32_t", "int64_t")),
    *(f"quantize_gradient_{t}" for t in ("int32_t", "int64_t")),
)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    lines = [x for x in text.splitlines() if x.startswith(("model name", "flags"))]
    return "\n".join(lines[:2])


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "intaglio"


def build(*options: str) -> Any:
    """Return the library, compiled with ``options`` more than usual; None where that fails."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        return None
    flags = (*_FLAGS, *options)
    try:
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=True
        ).stdout
        texts = [x.read_text() for x in _SOURCES]
        key = "\n".join((*texts, version, _processor(), *flags))
        name = f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        path = _folder() / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
            os.close(handle)
            try:
                files = [str(x) for x in _SOURCES if x.suffix == ".c"]
                command = [compiler, *flags, "-shared", "-fPIC", *files, "-o", temporary]
                subprocess.run(command, capture_output=True, check=True)
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError):
        return None
    for function in _RETURNS:
        getattr(library, function).restype = ctypes.c_int64
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.convolve_requantize.argtypes = (*[pointer] * 3, count, *[pointer] * 3)
    return library


@functools.cache
def loaded() -> Any:
    """Return the library for this processor, or None where it cannot be built."""
    return build()


def call(name: str, *arguments: Any) -> int:
    """Call a function with tensors as pointers, None as NULL and integers of 64 bits."""
    values: list[Any] = []
    for a in arguments:
        if a is None:
            values.append(ctypes.c_void_p())
        elif isinstance(a, torch.Tensor):
            values.append(ctypes.c_void_p(a.data_ptr()))
        elif isinstance(a, np.ndarray):
            values.append(ctypes.c_void_p(a.ctypes.data))
        elif isinstance(a, int):
            values.append(ctypes.c_int64(a if a < 1 << 63 else a - (1 << 64)))
        else:
            values.append(a)
    return getattr(loaded(), name)(*values)
