"""Bus functional models for cocotb benches: clock and reset, streams, scratchpad ports, memory bus.

Everything samples in the instant after ``RisingEdge(clk)``, where both simulators still show the
values from before the edge, and drives for the cycle that begins there.
"""

from intaglio_sim.bfm.bus import MemoryReader, MemoryWriter
from intaglio_sim.bfm.clock import start_clock
from intaglio_sim.bfm.packing import pack, row_to_int, unpack
from intaglio_sim.bfm.scratchpad import ReadPort, WritePort
from intaglio_sim.bfm.streams import ProtocolError, StreamDriver, StreamMonitor
from intaglio_sim.bfm.unit import UnitDriver

__all__ = [
    "MemoryReader",
    "MemoryWriter",
    "ProtocolError",
    "ReadPort",
    "StreamDriver",
    "StreamMonitor",
    "UnitDriver",
    "WritePort",
    "pack",
    "row_to_int",
    "start_clock",
    "unpack",
]
