"""The accelerator: units, scratchpads, sequencer and registers behind AXI4 and AXI4-Lite."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.array import ArrayUnit
from intaglio_hw.axi import AxiReadArbiter
from intaglio_hw.csr import CsrBank, axi_lite_members
from intaglio_hw.load import LoadUnit
from intaglio_hw.memory import Scratchpad
from intaglio_hw.ports import UNIT_NAMES, accelerator_members, connect_memory
from intaglio_hw.primitives import check_family, is_lean
from intaglio_hw.sequencer import Sequencer
from intaglio_hw.store import StoreUnit
from intaglio_hw.vector import VectorUnit

__all__ = ["Accelerator"]


class Accelerator(wiring.Component):
    """The whole machine, with the ports of :func:`~intaglio_hw.ports.accelerator_members`.

    Parameters
    ----------
    config
        Its sizes.
    family
        Whose blocks it is made of (:mod:`intaglio_hw.primitives`); what it does is the same.

    One clock; the reset is synchronous and active high.
    """

    def __init__(
        self, *, config: AcceleratorConfig, family: str = "generic", lean: bool | None = None
    ) -> None:
        self.config, self.family = config, check_family(family)
        self.lean = is_lean(family) if lean is None else lean
        super().__init__(accelerator_members(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        vector_bits = 8 * config.R

        m.submodules.csr = csr = CsrBank(config=config, lean=self.lean)
        m.submodules.sequencer = sequencer = Sequencer(config=config, lean=self.lean)
        m.submodules.load = load = LoadUnit(config=config, lean=self.lean)
        m.submodules.array = array = ArrayUnit(config=config, family=self.family, lean=self.lean)
        m.submodules.vector = vector = VectorUnit(config=config, family=self.family, lean=self.lean)
        m.submodules.store = store = StoreUnit(config=config, lean=self.lean)
        for name, unit in zip(UNIT_NAMES, (load, array, vector, store), strict=True):
            wiring.connect(m, getattr(sequencer, name), unit.unit)

        # Scratchpads: who writes, who reads.
        prm_depth = config.prm_depth // config.params_per_vector
        for name, depth, writer, reader in (
            ("ifm", config.ifm_depth, load.ifm, array.ifm),
            ("wgt", config.wgt_depth, load.wgt, array.wgt),
            ("vec", config.vec_depth, load.vec, vector.vec),
            ("prm", prm_depth, load.prm, vector.prm),
            ("ofm", config.ofm_depth, vector.ofm, store.ofm),
        ):
            scratchpad = Scratchpad(
                depth=depth,
                width=vector_bits,
                granularity=8 if name == "ofm" else None,
                family=self.family,
            )
            m.submodules[name] = scratchpad
            wiring.connect(m, writer, scratchpad.write)
            wiring.connect(m, reader, scratchpad.read)
        wiring.connect(m, vector.acc, array.acc)

        # Registers.
        for name, member in axi_lite_members("s_axil").items():
            inner, outer = getattr(csr, name), getattr(self, name)
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        m.d.comb += self.interrupt.eq(csr.interrupt)
        for name in (
            "start", "stop", "program_base", "program_length", "memory_base", "memory_bytes",
            "cycle_limit",
        ):  # fmt: skip
            m.d.comb += getattr(sequencer, name).eq(getattr(csr, name))
        for name in ("busy", "done", "failed", "finished", "error", "error_instruction"):
            m.d.comb += getattr(csr, name).eq(getattr(sequencer, name))
        for unit in (load, store):
            m.d.comb += [
                unit.memory_base.eq(csr.memory_base),
                unit.memory_bytes.eq(csr.memory_bytes),
            ]

        # Counters.
        LOAD, ARRAY, VECTOR, STORE = isa.UNITS
        # What the units wait for, from registers: nothing of it happens near a program's ends.
        waiting, running = Signal(len(UNIT_NAMES)), Signal(len(UNIT_NAMES))
        missing = [Signal(len(UNIT_NAMES), name=f"missing_{name}") for name in UNIT_NAMES]
        m.d.sync += [waiting.eq(sequencer.waiting), running.eq(sequencer.running)]
        m.d.sync += [
            signal.eq(getattr(sequencer, f"missing_{name}"))
            for signal, name in zip(missing, UNIT_NAMES, strict=True)
        ]
        from_load = [signal[LOAD] for signal in missing]
        events = {
            "cycles": sequencer.busy,
            "array_busy": array.busy_pixel,
            "array_wait_load": waiting[ARRAY] & from_load[ARRAY],
            "array_wait_vector": waiting[ARRAY] & ~from_load[ARRAY] & missing[ARRAY][VECTOR],
            "vector_busy": running[VECTOR],
            "vector_wait_load": waiting[VECTOR] & from_load[VECTOR],
            "vector_wait_array": waiting[VECTOR] & ~from_load[VECTOR] & missing[VECTOR][ARRAY],
            "vector_wait_store": waiting[VECTOR]
            & ~from_load[VECTOR]
            & ~missing[VECTOR][ARRAY]
            & missing[VECTOR][STORE],
            "load_busy": running[LOAD],
            "load_wait": waiting[LOAD],
            "store_busy": running[STORE],
            "store_wait": waiting[STORE],
            "read_beats": load.beat,
            "write_beats": store.beat,
            "fetch_beats": sequencer.fetch.r.valid & sequencer.fetch.r.ready,
            "instructions": sequencer.finished_count,
        }
        m.d.comb += [csr.events[name].eq(event) for name, event in events.items()]

        # The memory.
        m.submodules.arbiter = arbiter = AxiReadArbiter(config=config)
        wiring.connect(m, sequencer.fetch, arbiter.fetch)
        wiring.connect(m, load.memory, arbiter.load)
        connect_memory(m, self, read=arbiter.memory, write=store.memory)

        # Traces.
        for event in ("start", "done"):
            names = [f"trace_{event}", *(f"trace_{event}_index_{name}" for name in UNIT_NAMES)]
            m.d.comb += [getattr(self, name).eq(getattr(sequencer, name)) for name in names]
        return m
