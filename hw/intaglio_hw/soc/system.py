"""The accelerator with memory and serial line: all that a board needs besides clock and pins."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.accelerator import make_accelerator
from intaglio_hw.axi import AxiReadArbiter
from intaglio_hw.csr import axi_lite_members
from intaglio_hw.elaborate import TOP
from intaglio_hw.soc.bridge import UartBridge
from intaglio_hw.soc.memory import AxiWriteArbiter, BlockMemory
from intaglio_hw.soc.single_port import BurstArbiter, SinglePortMemory
from intaglio_hw.soc.uart import UartReceiver, UartTransmitter

__all__ = ["SerialSystem"]


class SerialSystem(wiring.Component):
    """Accelerator, memory, and the bridge through which a host reaches both.

    Bridge and accelerator are managers of the memory; the bridge's bursts go first, and are few.

    Parameters
    ----------
    config
        The accelerator.
    memory_bytes
        Of the memory, a multiple of 4096.
    single_port
        The memory is a :class:`~intaglio_hw.soc.single_port.SinglePortMemory`, with one burst at a
        time, instead of a :class:`~intaglio_hw.soc.memory.BlockMemory`.
    clock_hz
        Clock, for the register ``clock_hz``.
    divisor
        Clock cycles of a bit on the serial line.
    gap_cycles
        See :class:`~intaglio_hw.soc.bridge.UartBridge`.
    family
        Whose blocks it is made of.

    Members
    -------
    rx, tx
        The serial line: 8 data bits, no parity, 1 stop bit.
    interrupt
        The accelerator's.
    active
        High while the bridge carries out or answers a request.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        memory_bytes: int,
        clock_hz: int,
        divisor: int,
        gap_cycles: int,
        single_port: bool = False,
        family: str = "generic",
    ) -> None:
        self.single_port = single_port
        self.config, self.memory_bytes, self.clock_hz = config, memory_bytes, clock_hz
        self.divisor, self.gap_cycles, self.family = divisor, gap_cycles, family
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "interrupt": Out(1), "active": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        config, family = self.config, self.family
        m.submodules[TOP] = accelerator = make_accelerator(config=config, family=family)
        m.submodules.receiver = receiver = UartReceiver(divisor=self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.divisor)
        m.submodules.bridge = bridge = UartBridge(
            config=config,
            memory_bytes=self.memory_bytes,
            clock_hz=self.clock_hz,
            gap_cycles=self.gap_cycles,
            family=family,
        )
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.interrupt.eq(accelerator.interrupt),
            bridge.interrupt.eq(accelerator.interrupt),
            self.active.eq(bridge.active),
        ]
        wiring.connect(m, receiver.o, bridge.rx)
        wiring.connect(m, bridge.tx, transmitter.i)
        for name, member in axi_lite_members("axil").items():
            subordinate, manager = getattr(accelerator, f"s_{name}"), getattr(bridge, f"m_{name}")
            m.d.comb += subordinate.eq(manager) if member.flow == In else manager.eq(subordinate)
        self._memory(m, accelerator, bridge)
        return m

    def _memory(self, m: Module, accelerator: wiring.Component, bridge: UartBridge) -> None:
        """Add the memory and what merges its managers."""
        kind = SinglePortMemory if self.single_port else BlockMemory
        m.submodules.memory = memory = kind(
            config=self.config, memory_bytes=self.memory_bytes, family=self.family
        )
        if self.single_port:
            m.submodules.bursts = bursts = BurstArbiter(config=self.config)
            wiring.connect(m, bridge.read, bursts.first.read)
            wiring.connect(m, bridge.write, bursts.first.write)
            wiring.connect(m, bursts.memory.read, memory.read)
            wiring.connect(m, bursts.memory.write, memory.write)
            self._connect(m, accelerator, bursts.second.read, bursts.second.write)
            return
        m.submodules.reads = reads = AxiReadArbiter(config=self.config)
        m.submodules.writes = writes = AxiWriteArbiter(config=self.config)
        wiring.connect(m, bridge.read, reads.fetch)
        wiring.connect(m, reads.memory, memory.read)
        wiring.connect(m, bridge.write, writes.first)
        wiring.connect(m, writes.memory, memory.write)
        self._connect(m, accelerator, reads.load, writes.second)

    def _connect(self, m: Module, accelerator: wiring.Component, read, write) -> None:
        """Connect the accelerator's AXI4 manager: whole beats, incrementing bursts, ID 0."""

        def port(name: str):
            return getattr(accelerator, f"m_axi_{name}")

        for channel, order in (("ar", read.ar), ("aw", write.aw)):
            m.d.comb += [
                order.payload.addr.eq(port(f"{channel}addr")),
                order.payload.len.eq(port(f"{channel}len")),
                order.valid.eq(port(f"{channel}valid")),
                port(f"{channel}ready").eq(order.ready),
            ]
        m.d.comb += [
            port("rdata").eq(read.r.payload.data),
            port("rresp").eq(read.r.payload.resp),
            port("rlast").eq(read.r.payload.last),
            port("rvalid").eq(read.r.valid),
            read.r.ready.eq(port("rready")),
            write.w.payload.data.eq(port("wdata")),
            write.w.payload.last.eq(port("wlast")),
            write.w.valid.eq(port("wvalid")),
            port("wready").eq(write.w.ready),
            port("bresp").eq(write.b.payload.resp),
            port("bvalid").eq(write.b.valid),
            write.b.ready.eq(port("bready")),
        ]
