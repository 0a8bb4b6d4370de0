"""The register map on AXI4-Lite, in the engine's register file."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import regs
from intaglio_hw.csr import axi_lite_members
from intaglio_hw.sequential.interface import REGISTER_MAP, REGISTERS

__all__ = ["RegisterPort"]

OKAY, SLVERR = 0, 2


def _number(name: str) -> int:
    """Return the place of a register of the lower half of the map, in words."""
    return regs.register(name).address // 4


class RegisterPort(wiring.Component):
    """The register map as :class:`intaglio.spec.regs.Register` describes it.

    The bus: a write is accepted when address and data are both here; one access is in progress at a
    time, reads and writes take turns. The two lowest address bits are ignored. Byte strobes select
    the bytes of a write. Everything outside of the map is answered with SLVERR.

    All words lie in the engine's register file, which is the bus' in every third cycle, but for
    ``status``, ``interrupt_enable`` and ``interrupt_status``.

    Members besides the bus: ``open`` lets it in. ``busy`` is high from a start until ``finish``,
    which says with ``finish_done`` and ``finish_failed`` how the program ended; ``stop``: a stop
    was asked for since the start; ``started`` pulses in the cycle after. The members ``bus_*`` are
    those of :class:`~intaglio_hw.sequential.engine.Engine`.
    """

    def __init__(self) -> None:
        super().__init__(
            axi_lite_members("s_axil")
            | {
                "interrupt": Out(1),
                "open": In(1),
                "busy": Out(1),
                "stop": Out(1),
                "started": Out(1),
                "finish": In(1),
                "finish_done": In(1),
                "finish_failed": In(1),
                "bus_turn": In(1),
                "bus_read": Out(range(REGISTERS)),
                "bus_data": In(16),
                "bus_write": Out(range(REGISTERS)),
                "bus_value": Out(16),
                "bus_enables": Out(2),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        done, failed, stop = Signal(), Signal(), Signal()
        enable, status = Signal(2), Signal(2)
        m.d.comb += self.stop.eq(stop)

        # Which register: of a read or of a write, whichever is in progress.
        writing, high = Signal(), Signal()
        address = Signal.like(self.s_axil_araddr, reset_less=True)
        place, upper, beyond = address[2:6], address[7], address[6] | address[8:].any()
        lower = ~upper & ~beyond
        names = [item.name for item in regs.REGISTERS if item.address < 0x80]
        assert [_number(name) for name in names] == list(range(15))

        def is_one_of(*names: str) -> Value:
            return lower & Cat(place == _number(name) for name in names).any()

        def decoded(name: str, value: Value) -> Signal:
            signal = Signal(name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        here = ("status", "interrupt_enable", "interrupt_status")
        meant = {name: decoded(name, is_one_of(name)) for name in ("control", *here)}
        held = decoded("held", is_one_of(*here))
        known = decoded("known", ~beyond & (upper | ~place.all()))
        plain = decoded(
            "plain",
            is_one_of(
                *(
                    item.name
                    for item in regs.REGISTERS
                    if item.access == "rw" and item.name != "interrupt_enable"
                )
            ),
        )
        number = Cat(high, place, upper)
        number = Cat(number, Const(REGISTER_MAP >> len(number), 2))
        data_ = Mux(high, self.s_axil_wdata[16:], self.s_axil_wdata[:16])
        strobes = Mux(high, self.s_axil_wstrb[2:], self.s_axil_wstrb[:2])
        write = Signal()  # half of a word
        # The second half follows the first one, even if the program ends in between.
        was_allowed = Signal()
        allowed = Mux(high, was_allowed, plain & ~self.busy)
        m.d.comb += [
            self.bus_read.eq(number),
            self.bus_write.eq(number),
            self.bus_value.eq(data_),
            self.bus_enables.eq(Mux(write & allowed, strobes, 0)),
        ]
        # The half that is read, from the register file or from here.
        half = Signal(16)
        m.d.comb += half.eq(self.bus_data)
        with m.If(held):
            m.d.comb += half.eq(0)
            with m.If(~high):
                with m.If(meant["status"]):
                    m.d.comb += half.eq(Cat(self.busy, done, failed))
                with m.Elif(meant["interrupt_enable"]):
                    m.d.comb += half.eq(enable)
                with m.Else():
                    m.d.comb += half.eq(status)

        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        can_read = self.s_axil_arvalid & ~self.s_axil_rvalid
        can_write = self.s_axil_awvalid & self.s_axil_wvalid & ~self.s_axil_bvalid
        wrote = Signal()  # last, so that reads come first now
        cleared = Signal(2)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += high.eq(0)
                with m.If(self.open & can_read & (wrote | ~can_write)):
                    m.d.sync += [writing.eq(0), address.eq(self.s_axil_araddr)]
                    m.next = "DECODE"
                with m.Elif(self.open & can_write):
                    m.d.sync += [writing.eq(1), address.eq(self.s_axil_awaddr)]
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.next = "READ"
                with m.If(writing):
                    m.next = "WRITE"
            with m.State("READ"):
                with m.If(self.bus_turn):
                    m.next = "CAPTURE"
            with m.State("CAPTURE"):
                m.d.sync += [high.eq(1), wrote.eq(0)]
                with m.If(high):
                    m.d.comb += self.s_axil_arready.eq(1)
                    m.d.sync += [
                        self.s_axil_rdata[16:].eq(half),
                        self.s_axil_rresp.eq(Mux(known, OKAY, SLVERR)),
                        self.s_axil_rvalid.eq(1),
                    ]
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += self.s_axil_rdata[:16].eq(half)
                    m.next = "READ"
            with m.State("WRITE"):
                with m.If(self.bus_turn):
                    m.d.comb += write.eq(1)
                    m.d.sync += [high.eq(1), wrote.eq(1)]
                    with m.If(high):
                        m.d.comb += [self.s_axil_awready.eq(1), self.s_axil_wready.eq(1)]
                        m.d.sync += self.s_axil_bvalid.eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        m.d.sync += was_allowed.eq(allowed)
        acts = write & ~high & self.s_axil_wstrb[0]
        always_good = meant["control"] | meant["interrupt_enable"] | meant["interrupt_status"]
        with m.If(write & ~high):
            m.d.sync += self.s_axil_bresp.eq(Mux(always_good | allowed, OKAY, SLVERR))
        with m.If(acts & meant["interrupt_enable"]):
            m.d.sync += enable.eq(self.s_axil_wdata)
        with m.If(acts & meant["interrupt_status"]):
            m.d.comb += cleared.eq(self.s_axil_wdata)
        starts, stops = Signal(), Signal()
        with m.If(acts & meant["control"]):
            m.d.comb += [
                starts.eq(self.s_axil_wdata[0] & ~self.busy),
                stops.eq(self.s_axil_wdata[1] & self.busy),
            ]
        m.d.sync += self.started.eq(starts)
        happened = Cat(self.finish_done, self.finish_failed) & self.finish.replicate(2)
        m.d.sync += [
            status.eq((status & ~cleared) | happened),
            self.interrupt.eq((status & enable).any()),
        ]
        with m.If(stops):
            m.d.sync += stop.eq(1)
        with m.If(self.finish):
            m.d.sync += [
                self.busy.eq(0),
                done.eq(self.finish_done),
                failed.eq(self.finish_failed),
            ]
        with m.If(starts):
            m.d.sync += [self.busy.eq(1), done.eq(0), failed.eq(0), stop.eq(0)]
        return m
