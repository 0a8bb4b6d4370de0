"""Bursts between the memory bus and the scratchpad memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import ADDRESS_BITS, AxiReadSignature, AxiWriteSignature
from intaglio_hw.sequential.interface import Port
from intaglio_hw.sequential.layout import Layout

__all__ = ["Dma"]

_WORD = 16


class Dma(wiring.Component):
    """One burst at a time, as the engine's ports say.

    Members
    -------
    port, value, write
        As the engine has them; ``DMAGO`` starts.
    busy
        From the cycle after the start until the last response.
    error
        A response of the burst was an error.
    read, write_bus
        The memory bus.
    address, write_en, data
        Vector of the scratchpad memory, while ``busy``. ``write_en``: what the bus has read goes
        there. Otherwise ``data``, in the cycle after ``address``, goes to the bus.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        self._address_bits = Layout.of(config).address_bits
        super().__init__(
            {
                "port": In(6),
                "value": In(_WORD),
                "write": In(1),
                "busy": Out(1),
                "error": Out(1),
                "read_bus": Out(AxiReadSignature(config)),
                "write_bus": Out(AxiWriteSignature(config)),
                "address": Out(self._address_bits),
                "write_en": Out(1),
                "data": In(8 * config.R),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        read, write = self.read_bus, self.write_bus
        address = Signal(ADDRESS_BITS, reset_less=True)
        vector = Signal(self._address_bits, reset_less=True)
        left = Signal(8, reset_less=True)  # beats after this one
        last = Signal()
        reading = Signal()
        moves = Signal()  # a beat
        m.d.comb += [
            last.eq(left == 0),
            self.address.eq(vector),
            read.ar.payload.addr.eq(address),
            read.ar.payload.len.eq(left),
            write.aw.payload.addr.eq(address),
            write.aw.payload.len.eq(left),
            write.w.payload.data.eq(self.data),
            write.w.payload.last.eq(last),
            read.r.ready.eq(reading),
            self.write_en.eq(reading & read.r.valid),
        ]
        with m.If(self.write):
            with m.Switch(self.port):
                with m.Case(Port.DMAL):
                    m.d.sync += address[:_WORD].eq(self.value)
                with m.Case(Port.DMAH):
                    m.d.sync += address[_WORD:].eq(self.value)
                with m.Case(Port.DMAV):
                    m.d.sync += vector.eq(self.value)
        with m.If(moves):
            m.d.sync += [vector.eq(vector + 1), left.eq(left - 1)]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.write & (self.port == Port.DMAGO)):
                    m.d.sync += [left.eq(self.value), self.error.eq(0), self.busy.eq(1)]
                    with m.If(self.value[-1]):
                        m.next = "WRITE_ADDRESS"
                    with m.Else():
                        m.next = "READ_ADDRESS"
            with m.State("READ_ADDRESS"):
                m.d.comb += read.ar.valid.eq(1)
                with m.If(read.ar.ready):
                    m.d.sync += reading.eq(1)
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += moves.eq(read.r.valid)
                with m.If(read.r.valid):
                    with m.If(read.r.payload.resp[1]):
                        m.d.sync += self.error.eq(1)
                    with m.If(last):
                        m.d.sync += [self.busy.eq(0), reading.eq(0)]
                        m.next = "IDLE"
            with m.State("WRITE_ADDRESS"):
                m.d.comb += write.aw.valid.eq(1)
                with m.If(write.aw.ready):
                    m.next = "LOOK"
            with m.State("LOOK"):  # the vector is read, and again until the bus takes it
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [write.w.valid.eq(1), moves.eq(write.w.ready)]
                with m.If(write.w.ready):
                    m.next = "LOOK"
                    with m.If(last):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += write.b.ready.eq(1)
                with m.If(write.b.valid):
                    with m.If(write.b.payload.resp[1]):
                        m.d.sync += self.error.eq(1)
                    m.d.sync += self.busy.eq(0)
                    m.next = "IDLE"
        return m
