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
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intaglio.spec.errors import IntaglioError

__all__ = ["address", "build", "call", "empty", "loaded"]

#: What ``ctypes.byref`` returns.
_Reference = type(ctypes.byref(ctypes.c_int()))
_SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
_FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fwrapv", "-fopenmp", "-std=c11")
#: Bytes from which on the C library maps a block anew each time, whatever was freed before.
_MAPPED = 32 << 20
_RETURNS = (
    "quantize_error",
    "batch_norm_backward",
    "batch_norm_error_vectors",
    "batch_norm_normalize",
    "batch_norm_prepare",
    *(f"quantize_gradient_{x}_{y}" for x in ("int32_t", "int64_t") for y in ("int8_t", "int16_t")),
    "error_digits",
    "square_sums",
    "packed_bytes",
    "weight_codes",
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
    """Return the library, compiled with ``options`` more than usual.

    Raises
    ------
    IntaglioError
        No compiler, one that fails, or a folder that cannot be written.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise IntaglioError("no C compiler (gcc or cc on PATH, or CC)")
    if platform.system() != "Linux":
        raise IntaglioError(f"the kernels are for Linux, not {platform.system()}")
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
                subprocess.run(command, capture_output=True, text=True, check=True)
                with open(temporary, "rb") as file:
                    os.fsync(file)  # half a library would end every later process
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        library = ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        first = (error.stderr or "").strip().partition("\n")[0]
        reason = f"exit status {error.returncode}" + (f", {first}" if first else "")
        raise IntaglioError(f"{compiler}: {reason}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        raise IntaglioError(str(error)) from None
    for function in _RETURNS:
        getattr(library, function).restype = ctypes.c_int64
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.convolve_requantize.argtypes = (*[pointer] * 3, count, *[pointer] * 3)
    return library


@functools.cache
def loaded() -> Any:
    """Return the library for this processor; None, and a warning, where it cannot be built."""
    try:
        return build()
    except IntaglioError as error:
        warnings.warn(
            f"{error}: no C kernels; torch operators give the same bytes, several times slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _prototype(function: Any, arguments: Sequence[Any]) -> None:
    """Declare the parameters of a function after the kinds of its first arguments."""
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [count if isinstance(a, int) else pointer for a in arguments]


def address(argument: Any) -> Any:
    """Return where the numbers of a tensor or an array are; anything else as it is."""
    if type(argument) is np.ndarray:
        return argument.ctypes.data
    return argument.data_ptr() if isinstance(argument, torch.Tensor) else argument


def call(name: str, *arguments: Any) -> int:
    """Call a function with tensors as pointers, None as NULL and integers of 64 bits.

    A parameter is a pointer in every call or an integer in every call.
    """
    function = getattr(loaded(), name)
    if function.argtypes is None:
        _prototype(function, arguments)
    # Hundreds of calls in a step, with a dozen arguments each, of these three kinds nearly all.
    values = [
        a
        if (kind := type(a)) is int or kind is _Reference
        else a.data_ptr()
        if kind is torch.Tensor
        else address(a)
        for a in arguments
    ]
    result: int = function(*values)
    return result


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return ``torch.empty`` on the CPU; large blocks are backed by large pages where they exist.

    A block of hundreds of megabytes is mapped for each use, and the faults of its small pages take
    several times as long as what is written to it.
    """
    out = torch.empty(shape, dtype=dtype)
    if out.nbytes >= _MAPPED and loaded() is not None:
        call("large_pages", out, out.nbytes)
    return out
