"""What stands around the accelerator when it has a chip to itself: serial bridge, memory, buses."""

from intaglio_hw.soc.bridge import UartBridge
from intaglio_hw.soc.memory import AxiWriteArbiter, BlockMemory
from intaglio_hw.soc.single_port import BurstArbiter, SinglePortMemory
from intaglio_hw.soc.system import SerialSystem
from intaglio_hw.soc.uart import UartReceiver, UartTransmitter

__all__ = [
    "AxiWriteArbiter",
    "BlockMemory",
    "BurstArbiter",
    "SerialSystem",
    "SinglePortMemory",
    "UartBridge",
    "UartReceiver",
    "UartTransmitter",
]
