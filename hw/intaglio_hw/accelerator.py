"""The accelerator of a configuration, however it is organized."""

from amaranth.lib import wiring

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.sequential.top import SequentialAccelerator
from intaglio_hw.top import Accelerator

__all__ = ["make_accelerator"]


def make_accelerator(*, config: AcceleratorConfig, family: str = "generic") -> wiring.Component:
    """Return the accelerator of ``config``, made of blocks of ``family``."""
    kind = SequentialAccelerator if config.organization == "sequential" else Accelerator
    return kind(config=config, family=family)
