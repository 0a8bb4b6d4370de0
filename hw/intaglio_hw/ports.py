"""The accelerator's ports: the same whatever is behind them."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.csr import axi_lite_members
from intaglio_hw.interfaces import ADDRESS_BITS
from intaglio_hw.stages import INDEX_BITS

__all__ = ["UNIT_NAMES", "accelerator_members", "connect_memory"]

UNIT_NAMES = [unit.name.lower() for unit in isa.UNITS]
#: AXI4: incrementing bursts; normal memory that may be buffered; data, unprivileged, secure.
_BURST_INCR, _CACHE, _PROT = 0b01, 0b0011, 0b000


def _axi_members(prefix: str, *, data_bytes: int) -> dict:
    """Return the members of an AXI4 manager, named ``<prefix>_awaddr`` and so on; IDs are zero."""
    members: dict = {}
    for channel in ("aw", "ar"):
        members |= {
            f"{channel}id": Out(1),
            f"{channel}addr": Out(ADDRESS_BITS),
            f"{channel}len": Out(8),
            f"{channel}size": Out(3),
            f"{channel}burst": Out(2),
            f"{channel}lock": Out(1),
            f"{channel}cache": Out(4),
            f"{channel}prot": Out(3),
            f"{channel}qos": Out(4),
            f"{channel}valid": Out(1),
            f"{channel}ready": In(1),
        }
    members |= {
        "wdata": Out(8 * data_bytes),
        "wstrb": Out(data_bytes),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
        "rid": In(1),
        "rdata": In(8 * data_bytes),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
    }
    return {f"{prefix}_{name}": member for name, member in members.items()}


def accelerator_members(config: AcceleratorConfig) -> dict:
    """Return the ports of an accelerator of ``config``.

    m_axi_*
        AXI4 manager, one beat is R bytes, addresses of 32 bits, ID 0, whole beats only.
    s_axil_*
        AXI4-Lite subordinate with the registers of :mod:`intaglio.spec.regs`.
    interrupt
        Level, high until it is cleared in ``interrupt_status``.
    trace_start, trace_done
        Bit u: unit u took, finished an instruction in the cycle before, whose index in the program
        is ``trace_start_index_<unit>``, ``trace_done_index_<unit>``. For test benches and logic
        analysers.
    """
    members = _axi_members("m_axi", data_bytes=config.bus_bytes) | axi_lite_members("s_axil")
    members["interrupt"] = Out(1)
    for event in ("start", "done"):
        members[f"trace_{event}"] = Out(len(UNIT_NAMES))
        for name in UNIT_NAMES:
            members[f"trace_{event}_index_{name}"] = Out(INDEX_BITS)
    return members


def connect_memory(m: Module, accelerator: wiring.Component, *, read, write) -> None:
    """Connect the memory bus of ``accelerator`` to what reads (AxiReadSignature) and what writes
    (AxiWriteSignature).
    """

    def port(name: str):
        return getattr(accelerator, f"m_axi_{name}")

    for channel, address in (("ar", read.ar), ("aw", write.aw)):
        constants = {
            "id": 0,
            "size": accelerator.config.bus_bytes.bit_length() - 1,
            "burst": _BURST_INCR,
            "lock": 0,
            "cache": _CACHE,
            "prot": _PROT,
            "qos": 0,
        }
        m.d.comb += [port(f"{channel}{name}").eq(value) for name, value in constants.items()]
        m.d.comb += [
            port(f"{channel}addr").eq(address.payload.addr),
            port(f"{channel}len").eq(address.payload.len),
            port(f"{channel}valid").eq(address.valid),
            address.ready.eq(port(f"{channel}ready")),
        ]
    m.d.comb += [
        read.r.payload.data.eq(port("rdata")),
        read.r.payload.resp.eq(port("rresp")),
        read.r.payload.last.eq(port("rlast")),
        read.r.valid.eq(port("rvalid")),
        port("rready").eq(read.r.ready),
        port("wdata").eq(write.w.payload.data),
        port("wstrb").eq(~0),
        port("wlast").eq(write.w.payload.last),
        port("wvalid").eq(write.w.valid),
        write.w.ready.eq(port("wready")),
        write.b.payload.resp.eq(port("bresp")),
        write.b.valid.eq(port("bvalid")),
        port("bready").eq(write.b.ready),
    ]
