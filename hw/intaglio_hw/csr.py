"""The registers: an AXI4-Lite subordinate that is generated from :mod:`intaglio.spec.regs`."""

import functools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import regs
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.counters import CounterBank, events_layout

__all__ = ["AXI_LITE_ADDRESS_BITS", "CsrBank", "axi_lite_members", "events_layout"]

#: Width of register addresses: one page of 4096 bytes.
AXI_LITE_ADDRESS_BITS = 12
DATA_BITS = 32
OKAY, SLVERR = 0, 2


def axi_lite_members(prefix: str) -> dict:
    """Return the members of an AXI4-Lite subordinate of 32 bits: ``<prefix>_awaddr`` and so on."""
    members = {
        "awaddr": In(AXI_LITE_ADDRESS_BITS),
        "awprot": In(3),
        "awvalid": In(1),
        "awready": Out(1),
        "wdata": In(DATA_BITS),
        "wstrb": In(DATA_BITS // 8),
        "wvalid": In(1),
        "wready": Out(1),
        "bresp": Out(2),
        "bvalid": Out(1),
        "bready": In(1),
        "araddr": In(AXI_LITE_ADDRESS_BITS),
        "arprot": In(3),
        "arvalid": In(1),
        "arready": Out(1),
        "rdata": Out(DATA_BITS),
        "rresp": Out(2),
        "rvalid": Out(1),
        "rready": In(1),
    }
    return {f"{prefix}_{name}": member for name, member in members.items()}


class CsrBank(wiring.Component):
    """The register map as :class:`intaglio.spec.regs.Register` describes it.

    The bus: addresses and data of a write may arrive in any order and at any distance; one write
    and one read are in progress at a time. The two lowest address bits are ignored. Byte strobes
    select the bytes of a write. Everything outside of the map is answered with SLVERR.

    ``start`` and ``stop`` pulse when their bits in ``control`` are written, ``start`` only while
    not ``busy``. ``program_base`` ... are the ``rw`` registers. ``busy``, ``done``, ``failed``,
    ``error`` and ``error_instruction`` appear in the registers of these names; a cycle with
    ``finished`` sets the bits of ``interrupt_status`` that ``done`` and ``failed`` name.
    ``interrupt`` is a level, high while a bit of ``interrupt_status`` is set that
    ``interrupt_enable`` selects.

    ``events`` (:func:`events_layout`): what each counter adds in this cycle, while ``busy``.
    Counters wrap; they follow three cycles behind.

    From the later of address and data to ``bvalid``: 3 cycles, from the address to ``rvalid``: 5.
    """

    #: Cycles from the later of address and data to the answer of a write.
    LATENCY = 3
    #: Words that are put together in each step of a read.
    _READ_GROUPS = (2, 4)

    def __init__(self, *, config: AcceleratorConfig, lean: bool = False) -> None:
        self._config, self._lean = config, lean
        members = axi_lite_members("s_axil") | {
            "interrupt": Out(1),
            "start": Out(1),
            "stop": Out(1),
            "busy": In(1),
            "done": In(1),
            "failed": In(1),
            "finished": In(1),
            "error": In(8),
            "error_instruction": In(DATA_BITS),
            "events": In(events_layout()),
        }
        for register in regs.REGISTERS:
            if register.access == "rw" and register.name != "interrupt_enable":
                members[register.name] = Out(DATA_BITS)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self._config

        # What is read: a value for each register, from the table.
        values = {
            "identity": regs.IDENTITY,
            "version": regs.VERSION,
            "config": int(config.digest()[-8:], 16),
            "error_instruction": self.error_instruction,
        }
        fields = {
            "lanes": {"R": config.R, "K": config.K, "drain_lanes": config.drain_lanes},
            "control": {"start": 0, "stop": 0},
            "status": {"busy": self.busy, "done": self.done, "failed": self.failed},
            "error": {"code": self.error},
        }
        for name, contents in fields.items():
            word = data.StructLayout(
                {field.name: field.width for field in regs.register(name).fields}
            )
            values[name] = Signal(word, name=f"{name}_word")
            m.d.comb += [values[name][key].eq(value) for key, value in contents.items()]
        writable = {}
        for register in regs.REGISTERS:
            if register.access in ("rw", "w1c"):
                width = sum(field.width for field in register.fields) or DATA_BITS
                storage = Signal(width, name=f"{register.name}_storage")
                writable[register.name] = storage
                values[register.name] = storage
                if hasattr(self, register.name):
                    m.d.comb += getattr(self, register.name).eq(storage)

        # Counters. The event is registered first: it may come from far away.
        was_busy = Signal()
        anew = Signal(init=1)  # so that a reset need clear neither counters nor events
        m.d.sync += [was_busy.eq(self.busy), anew.eq(self.start)]
        bank = CounterBank() if self._lean else None
        if bank is not None:
            m.submodules.counters = bank
            m.d.comb += bank.clear.eq(anew)
        layout = events_layout()
        for name, _ in regs.COUNTERS:
            happened_before = Signal(layout[name].width, name=f"{name}_before")
            event = Signal(layout[name].width, name=f"{name}_event", reset_less=True)
            m.d.sync += [
                happened_before.eq(self.events[name]),
                event.eq(Mux(was_busy, happened_before, 0)),
            ]
            if bank is not None:
                m.d.comb += bank.events[name].eq(event)
                continue
            counter = Signal(DATA_BITS, name=f"{name}_counter", reset_less=True)
            with m.If(anew):
                m.d.sync += counter.eq(0)
            with m.Else():
                m.d.sync += counter.eq(counter + event)
            values[name] = counter

        # Events of the machine.
        status = writable["interrupt_status"]
        events = {"done": self.finished & self.done, "failed": self.finished & self.failed}
        happened = Signal(len(status))
        cleared = Signal(len(status))
        m.d.comb += happened.eq(
            Cat(events.pop(field.name) for field in regs.register("interrupt_status").fields)
        )
        m.d.sync += [
            status.eq((status & ~cleared) | happened),
            self.interrupt.eq((status & writable["interrupt_enable"]).any()),
        ]

        # Write channels: hold address and data until both are here and the answer has a place.
        word_bits = AXI_LITE_ADDRESS_BITS - 2
        address, data_, strobes = Signal(word_bits), Signal(DATA_BITS), Signal(DATA_BITS // 8)
        has_address, has_data = Signal(), Signal()
        m.d.comb += [self.s_axil_awready.eq(~has_address), self.s_axil_wready.eq(~has_data)]
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [has_address.eq(1), address.eq(self.s_axil_awaddr[2:])]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [has_data.eq(1), data_.eq(self.s_axil_wdata), strobes.eq(self.s_axil_wstrb)]
        # The register that is meant is found while address and data are looked for.
        write = Signal()
        m.d.sync += write.eq(has_address & has_data & ~self.s_axil_bvalid & ~write)
        meant = {}
        for register in regs.REGISTERS:
            if register.access != "ro":
                meant[register.name] = Signal(name=f"{register.name}_meant", reset_less=True)
                m.d.sync += meant[register.name].eq(address == register.address // 4)
        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), self.s_axil_bvalid.eq(1)]

        masked = Cat(Mux(strobe, data_.word_select(i, 8), 0) for i, strobe in enumerate(strobes))
        m.d.sync += [self.start.eq(0), self.stop.eq(0)]
        # A start that is on its way counts: nothing may change between it and the first busy cycle.
        # Two writes are further apart than this is late.
        locked = Signal()
        m.d.sync += locked.eq(self.busy | self.start)
        good = []  # writes that are answered with OKAY
        for register in regs.REGISTERS:
            if register.access == "ro":
                continue
            its = meant[register.name]
            if register.access == "w1":
                good.append(its)
                bits = dict(zip((f.name for f in register.fields), masked, strict=False))
                with m.If(write & its):
                    m.d.sync += [
                        self.start.eq(bits["start"] & ~locked),
                        self.stop.eq(bits["stop"]),
                    ]
            elif register.access == "w1c":
                good.append(its)
                with m.If(write & its):
                    m.d.comb += cleared.eq(masked[: len(cleared)])
            else:
                storage = writable[register.name]
                may = its if register.name == "interrupt_enable" else its & ~locked
                good.append(may)
                for low in range(0, len(storage), 8):
                    byte = slice(low, min(low + 8, len(storage)))
                    with m.If(write & may & strobes[low // 8]):
                        m.d.sync += storage[byte].eq(data_[byte])
        with m.If(write):
            m.d.sync += self.s_axil_bresp.eq(Mux(Cat(good).any(), OKAY, SLVERR))

        self._read(m, values, bank)
        return m

    def _read(self, m: Module, values: dict, bank: CounterBank | None) -> None:
        """Answer reads: the address; a bit for each register that is meant; then their OR, in steps
        that are taken in each cycle, except for the last one: what is read changes, the answer must
        not while it waits. Counters of a bank choose among themselves.
        """
        address = Signal(AXI_LITE_ADDRESS_BITS - 2)
        ready = Signal(init=1)
        with m.If(ready):
            m.d.sync += address.eq(self.s_axil_araddr[2:])
        words = []
        for register in regs.REGISTERS:
            if register.name not in values:
                continue
            meant = Signal(name=f"{register.name}_read", reset_less=True)
            m.d.sync += meant.eq(address == register.address // 4)
            value = Value.cast(values[register.name])
            word = Cat(value, Const(0, DATA_BITS - len(value)), Const(1, 1))
            words.append(word & meant.replicate(len(word)))
        for number, group in enumerate(self._READ_GROUPS):
            sums = []
            for low in range(0, len(words), group):
                total = Signal(DATA_BITS + 1, name=f"word{number}_{low}", reset_less=True)
                # Lean: what is read waits where it is.
                domain = m.d.comb if self._lean else m.d.sync
                domain += total.eq(functools.reduce(operator.or_, words[low : low + group]))
                sums.append(total)
            words = sums
        if bank is not None:
            select_bits = len(bank.select)
            base = regs.register(regs.COUNTERS[0][0]).address // 4
            assert base % (1 << select_bits) == 0 and bank.LATENCY == len(self._READ_GROUPS)
            m.d.sync += bank.select.eq(address[:select_bits])
            is_counter = address[select_bits:] == base >> select_bits
            for stage in range(1 + bank.LATENCY):
                flag = Signal(name=f"counter_read_{stage}", reset_less=True)
                m.d.sync += flag.eq(is_counter)
                is_counter = flag
            words.append(Cat(bank.count, Const(1, 1)) & is_counter.replicate(DATA_BITS + 1))
        answer = Signal(DATA_BITS + 1, reset_less=True)
        looking = Signal(len(self._READ_GROUPS) + 2)
        with m.If(looking[-1]):
            m.d.sync += answer.eq(functools.reduce(operator.or_, words))
        accepted, given = Signal(), Signal()
        m.d.comb += [
            accepted.eq(self.s_axil_arvalid & ready),
            given.eq(self.s_axil_rvalid & self.s_axil_rready),
            self.s_axil_arready.eq(ready),
            self.s_axil_rdata.eq(answer[:DATA_BITS]),
            self.s_axil_rresp.eq(Mux(answer[DATA_BITS], OKAY, SLVERR)),
        ]
        m.d.sync += [
            ready.eq(given | (ready & ~accepted)),
            looking.eq(Cat(accepted, looking[:-1])),
            self.s_axil_rvalid.eq(looking[-1] | (self.s_axil_rvalid & ~given)),
        ]
