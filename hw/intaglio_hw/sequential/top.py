"""The sequential accelerator: an engine that does everything, one thing after the other."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from intaglio.spec import regs
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.csr import axi_lite_members
from intaglio_hw.ports import UNIT_NAMES, accelerator_members, connect_memory
from intaglio_hw.primitives import check_family
from intaglio_hw.sequential import microcode
from intaglio_hw.sequential.array import ArrayPass
from intaglio_hw.sequential.dma import Dma
from intaglio_hw.sequential.drain import DrainPass
from intaglio_hw.sequential.engine import CONDITIONS, Engine
from intaglio_hw.sequential.interface import (
    REGISTER_MAP,
    Condition,
    Port,
    Source,
    register_number,
)
from intaglio_hw.sequential.layout import Layout
from intaglio_hw.sequential.registers import RegisterPort
from intaglio_hw.sequential.scratchpad import WordMemory
from intaglio_hw.sequential.timer import Timer

__all__ = ["SequentialAccelerator", "make_engine"]

_WORD = 16


def _identification(config: AcceleratorConfig) -> dict[int, int]:
    """Return the registers of the engine in which the machine says what it is, and their values."""
    values = {
        "identity": regs.IDENTITY,
        "version": regs.VERSION,
        "lanes": config.R | config.K << 8 | config.drain_lanes << 16,
        "config": int(config.digest()[-8:], 16),
    }
    result: dict[int, int] = {}
    for name, value in values.items():
        number = register_number(name)
        result |= {number: value & 0xFFFF, number + 1: value >> 16}
    return result


def make_engine(
    config: AcceleratorConfig,
    family: str,
    program: tuple[list[int], dict[int, int]] | None = None,
) -> Engine:
    """Return the engine with ``program``: words and initial registers, other than those of
    :mod:`intaglio_hw.sequential.microcode`, for tests.
    """
    words, registers = program or (microcode.words(config), microcode.registers(config))
    assert max(registers, default=0) < REGISTER_MAP
    return Engine(words=words, registers=registers | _identification(config), family=family)


class SequentialAccelerator(wiring.Component):
    """An accelerator with the ports of :func:`~intaglio_hw.ports.accelerator_members`.

    Parameters
    ----------
    config
        Its sizes; ``organization`` is ``"sequential"``.
    family
        Whose blocks it is made of (:mod:`intaglio_hw.primitives`); what it does is the same.
    program
        Of :func:`make_engine`.

    One clock; the reset is synchronous and active high.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        family: str = "generic",
        program: tuple[list[int], dict[int, int]] | None = None,
    ) -> None:
        self.config, self.family = config, check_family(family)
        self.program = program
        super().__init__(accelerator_members(config))

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.engine = engine = make_engine(config, self.family, self.program)
        m.submodules.registers = bus = RegisterPort()
        m.submodules.memory = memory = WordMemory(
            vectors=Layout.of(config).vectors, family=self.family
        )
        m.submodules.array = array = ArrayPass(config=config, family=self.family)
        m.submodules.dma = dma = Dma(config=config)
        m.submodules.drain = drain = DrainPass()
        m.submodules.timer = timer = Timer()
        for part in (memory, array, dma, drain, timer):
            m.d.comb += [
                part.port.eq(engine.port),
                part.value.eq(engine.value),
                part.write.eq(engine.write),
            ]

        # What the engine sees.
        assert min(Source.TIML, Source.TIMH) >= 8 > max(Source.ACCL, Source.ACCH, Source.ACCHI)
        assert (Source.TIML & 1, Source.TIMH & 1) == (0, 1)
        conditions = {
            Condition.BUSY: bus.busy,
            Condition.ATT: bus.stop | timer.expired,
            Condition.STOP: bus.stop,
            Condition.DMA_BUSY: dma.busy,
            Condition.DMA_ERR: dma.error,
            Condition.ARR_BUSY: array.busy,
            Condition.ARR_ERR: array.error,
            Condition.DRAIN_BUSY: drain.busy,
        }
        takes_on = Signal()  # known a cycle before
        m.d.sync += takes_on.eq(engine.source == Source.ACCHI)
        m.d.comb += [
            memory.wanted.eq(engine.wants_scratch),
            engine.scratch.eq(memory.scratch),
            engine.special.eq(
                Mux(
                    engine.source[3],
                    Mux(engine.source[0], timer.count[_WORD:], timer.count[:_WORD]),
                    Mux(engine.source == Source.ACCL, array.low, array.high),
                )
            ),
            engine.conditions.eq(Cat(conditions[item] for item in CONDITIONS)),
            memory.source.eq(engine.source),
            memory.take.eq(engine.take),
            array.take.eq((engine.take & takes_on) | drain.take),
        ]

        # Requantisation.
        m.d.comb += [
            engine.multiply.eq(drain.multiply),
            engine.multiplicand.eq(Cat(array.low, array.high)),
            engine.multiplier.eq(drain.factor),
            drain.low.eq(engine.product_low),
            drain.high.eq(engine.product_high),
            memory.code.eq(drain.code),
            memory.codes.eq(drain.busy),
            memory.write_code.eq(drain.write_code),
        ]

        # The scratchpads.
        m.d.comb += [
            memory.busy.eq(array.busy | dma.busy),
            memory.address.eq(Mux(array.busy, array.address, dma.address)),
            memory.write_data.eq(dma.read_bus.r.payload.data),
            memory.write_en.eq(dma.write_en),
            array.data.eq(memory.data),
            dma.data.eq(memory.data),
        ]
        connect_memory(m, self, read=dma.read_bus, write=dma.write_bus)

        # Registers.
        for name, member in axi_lite_members("s_axil").items():
            inner, outer = getattr(bus, name), getattr(self, name)
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        for name in ("bus_read", "bus_write", "bus_value", "bus_enables"):
            m.d.comb += getattr(engine, name).eq(getattr(bus, name))
        opened = Signal()

        def given(port: Port):
            return engine.write & (engine.port == port)

        with m.If(given(Port.RDY)):
            m.d.sync += opened.eq(1)
        armed = Signal()
        m.d.comb += engine.trap.eq(armed & conditions[Condition.ATT])
        with m.If(given(Port.TRAP)):
            m.d.sync += armed.eq(engine.value)
        with m.If(engine.trap & engine.step):
            m.d.sync += armed.eq(0)
        m.d.comb += [
            bus.bus_turn.eq(engine.bus_turn),
            bus.bus_data.eq(engine.bus_data),
            bus.open.eq(opened),
            bus.finish.eq(given(Port.FIN)),
            bus.finish_done.eq(engine.value[0]),
            bus.finish_failed.eq(engine.value[1]),
            timer.clear.eq(bus.started),
            self.interrupt.eq(bus.interrupt),
        ]

        # Traces.
        index = Signal(2 * _WORD, reset_less=True)
        with m.If(given(Port.TRXL)):
            m.d.sync += index[:_WORD].eq(engine.value)
        with m.If(given(Port.TRXH)):
            m.d.sync += index[_WORD:].eq(engine.value)
        for place, event in enumerate(("start", "done")):
            flags = engine.value.word_select(place, len(UNIT_NAMES))
            m.d.sync += getattr(self, f"trace_{event}").eq(Mux(given(Port.TRACE), flags, 0))
            for name in UNIT_NAMES:
                m.d.comb += getattr(self, f"trace_{event}_index_{name}").eq(index)
        return m
