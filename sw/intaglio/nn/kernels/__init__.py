"""Kernels: one interface, two executors with equal bytes.

:mod:`plain` is written in torch operators; :mod:`native` runs fused loops in C, compiled at first
use, where there is a C compiler and the tensors are on the CPU. ``INTAGLIO_KERNELS=plain`` or
:func:`use` selects the plain one.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from intaglio.nn.kernels import plain
from intaglio.spec.errors import IntaglioError

__all__ = ["active", "plain", "use"]

_active: Any = None


def active() -> Any:
    """Return the module of kernels that is in use."""
    global _active
    if _active is None:
        wanted = os.environ.get("INTAGLIO_KERNELS") or "native"
        if wanted not in ("native", "plain"):
            raise IntaglioError(f"INTAGLIO_KERNELS must be native or plain, not {wanted!r}")
        _active = plain
        if wanted == "native":
            # Imported late: the module builds its library.
            native = importlib.import_module("intaglio.nn.kernels.native")
            if native.available():
                _active = native
    return _active


@contextlib.contextmanager
def use(kernels: Any) -> Iterator[None]:
    """Use the module ``kernels`` inside the block."""
    global _active
    before, _active = _active, kernels
    try:
        yield
    finally:
        _active = before
