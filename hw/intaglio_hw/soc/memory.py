"""A memory of block RAMs on the memory bus, and the arbiter of two writers."""

from itertools import pairwise

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.axi import BOUNDARY_BYTES
from intaglio_hw.csr import OKAY, SLVERR
from intaglio_hw.interfaces import ADDRESS_BITS, AxiReadSignature, AxiWriteSignature
from intaglio_hw.primitives import BlockRam, check_family
from intaglio_hw.streams import Queue, SkidBuffer

__all__ = [
    "AxiWriteArbiter",
    "BlockMemory",
    "bank_rows",
    "check_memory_bytes",
    "inside",
]

#: Rows of the largest bank: a block RAM of one bit in a row.
_MOST_ROWS = 16384


def bank_rows(rows: int) -> list[int]:
    """Return the rows of the banks of a memory: powers of two, the largest first.

    A bank begins at a multiple of its own rows, as all before it are at least as large.
    """
    banks = []
    while rows:
        bank = min(_MOST_ROWS, 1 << (rows.bit_length() - 1))
        banks.append(bank)
        rows -= bank
    return banks


def check_memory_bytes(memory_bytes: int) -> int:
    """Return ``memory_bytes``; ValueError if no memory has that size."""
    if memory_bytes < BOUNDARY_BYTES or memory_bytes % BOUNDARY_BYTES:
        raise ValueError(f"memory_bytes must be a multiple of {BOUNDARY_BYTES}, not {memory_bytes}")
    if memory_bytes > 1 << ADDRESS_BITS:
        raise ValueError(f"memory_bytes must be at most 2**{ADDRESS_BITS}, not {memory_bytes}")
    return memory_bytes


def inside(address, memory_bytes: int):
    """Return whether a bus address lies in a memory of ``memory_bytes`` that begins at 0."""
    page = (BOUNDARY_BYTES - 1).bit_length()
    return address[page:] < memory_bytes // BOUNDARY_BYTES


class BlockMemory(wiring.Component):
    """A memory of block RAMs behind the read and write channels of an AXI4 subordinate.

    1. It begins at bus address 0. A burst that begins outside of it is answered with SLVERR in each
       beat and does nothing; as no burst crosses a 4096-byte boundary, none ends outside that
       begins inside.
    2. Reads and writes are independent. A read whose address is taken after the answer to a write
       sees what was written.
    3. One beat per cycle in each direction; one cycle without between two bursts.
    4. All outputs are registered.

    Parameters
    ----------
    config
        Bus width.
    memory_bytes
        Its size, a multiple of 4096; other than a power of two is possible.
    family
        Whose block RAM.

    Bytes are zero at power-up and survive a reset.
    """

    #: Cycles from the address of a read to its first beat.
    LATENCY = 7

    def __init__(
        self, *, config: AcceleratorConfig, memory_bytes: int, family: str = "generic"
    ) -> None:
        self.config, self.memory_bytes = config, check_memory_bytes(memory_bytes)
        self.family = check_family(family)
        super().__init__(
            {"read": In(AxiReadSignature(config)), "write": In(AxiWriteSignature(config))}
        )

    def elaborate(self, platform):
        m = Module()
        beat = self.config.bus_bytes
        self._rows = self.memory_bytes // beat
        self._shift = (beat - 1).bit_length()
        self._row_bits = (self._rows - 1).bit_length()
        banks = []
        for index, rows in enumerate(bank_rows(self._rows)):
            bank = BlockRam(depth=rows, width=8 * beat, family=self.family)
            m.submodules[f"bank{index}"] = bank
            banks.append(bank)
        self._write(m, banks)
        self._read(m, banks)
        return m

    def _select(self, row, banks) -> list:
        """Return for each bank whether it holds ``row``."""
        first, selected = 0, []
        for bank in banks:
            low = (bank.depth - 1).bit_length()
            selected.append(row[low:] == first >> low)
            first += bank.depth
        return selected

    def _write(self, m: Module, banks) -> None:
        busy, good, answer = Signal(), Signal(), Signal()
        row = Signal(self._row_bits, reset_less=True)
        aw, w, b = self.write.aw, self.write.w, self.write.b
        m.submodules.answers = answers = SkidBuffer(shape=data.StructLayout({"resp": 2}))
        wiring.connect(m, answers.o, wiring.flipped(b))
        m.d.comb += [aw.ready.eq(~busy & ~answer), w.ready.eq(busy)]
        with m.If(aw.valid & aw.ready):
            m.d.sync += [
                busy.eq(1),
                good.eq(inside(aw.payload.addr, self.memory_bytes)),
                row.eq(aw.payload.addr[self._shift :]),
            ]
        transfer = w.valid & w.ready
        with m.If(transfer):
            m.d.sync += row.eq(row + 1)
            with m.If(w.payload.last):
                m.d.sync += [busy.eq(0), answer.eq(1)]
        # A stage before the banks: they are spread over the whole chip. The answer stays behind it.
        held = Signal.like(w.payload.data, reset_less=True)
        held_row = Signal.like(row, reset_less=True)
        enables = Signal(len(banks))
        m.d.sync += [held.eq(w.payload.data), held_row.eq(row)]
        for i, selected in enumerate(self._select(row, banks)):
            m.d.sync += enables[i].eq(selected & transfer & good)
            m.d.comb += [
                banks[i].write_addr.eq(held_row),
                banks[i].write_data.eq(held),
                banks[i].write_en.eq(enables[i]),
            ]
        m.d.comb += [
            answers.i.valid.eq(answer),
            answers.i.payload.resp.eq(Mux(good, OKAY, SLVERR)),
        ]
        with m.If(answer & answers.i.ready):
            m.d.sync += answer.eq(0)

    def _read(self, m: Module, banks) -> None:
        ar, r = self.read.ar, self.read.r
        depth = 8
        m.submodules.beats = beats = Queue(shape=r.payload.shape(), depth=depth)
        wiring.connect(m, beats.o, wiring.flipped(r))
        # Stage 1: the row of the next beat. It goes on while the queue has room for all that are
        # on their way.
        busy, good = Signal(), Signal()
        row = Signal(self._row_bits, reset_less=True)
        left = Signal(8, reset_less=True)
        room = Signal(range(depth + 1), init=depth)
        issue = Signal()
        m.d.comb += [ar.ready.eq(~busy), issue.eq(busy & (room != 0))]
        with m.If(ar.valid & ar.ready):
            m.d.sync += [
                busy.eq(1),
                good.eq(inside(ar.payload.addr, self.memory_bytes)),
                row.eq(ar.payload.addr[self._shift :]),
                left.eq(ar.payload.len),
            ]
        with m.If(issue):
            m.d.sync += [row.eq(row + 1), left.eq(left - 1)]
            with m.If(left == 0):
                m.d.sync += busy.eq(0)
        m.d.sync += room.eq(room + (r.valid & r.ready) - issue)
        # Stage 2: a register before the banks. Then the banks, and the choice between them.
        tag = data.StructLayout({"valid": 1, "last": 1, "good": 1, "bank": range(len(banks) + 1)})
        stages = [Signal(tag, name=f"tag{i}") for i in range(2 + BlockRam.LATENCY)]
        held_row = Signal.like(row, reset_less=True)
        m.d.sync += [
            held_row.eq(row),
            stages[0].valid.eq(issue),
            stages[0].last.eq(left == 0),
            stages[0].good.eq(good),
        ]
        for i, selected in enumerate(self._select(row, banks)):
            with m.If(selected):
                m.d.sync += stages[0].bank.eq(i)
            m.d.comb += banks[i].read_addr.eq(held_row)
        m.d.sync += [after.eq(before) for before, after in pairwise(stages)]
        chosen = Signal.like(r.payload.data, reset_less=True)
        m.d.sync += chosen.eq(Array(bank.read_data for bank in banks)[stages[-2].bank])
        done = stages[-1]
        m.d.comb += [
            beats.i.valid.eq(done.valid),
            beats.i.payload.data.eq(Mux(done.good, chosen, 0)),
            beats.i.payload.resp.eq(Mux(done.good, OKAY, SLVERR)),
            beats.i.payload.last.eq(done.last),
        ]


class AxiWriteArbiter(wiring.Component):
    """Merge two writers of the memory into one.

    1. Bursts of ``first`` go before those of ``second``; a burst that is offered at ``memory``
       stays.
    2. Beats go out in the order of the bursts, answers come back in it.
    3. At most ``max_outstanding`` bursts are not answered.
    4. A writer that holds back its beats or does not take its answers holds up the other.

    Parameters
    ----------
    config
        Bus width.
    max_outstanding
        Bursts that are not answered, at least 3.
    """

    #: Cycles from a writer's burst or beat to the memory, and from an answer to its writer.
    LATENCY = 1

    def __init__(self, *, config: AcceleratorConfig, max_outstanding: int = 8) -> None:
        self.config, self.max_outstanding = config, max_outstanding
        signature = AxiWriteSignature(config)
        super().__init__(
            {"first": In(signature), "second": In(signature), "memory": Out(signature)}
        )

    def elaborate(self, platform):
        m = Module()
        first, second, memory = self.first, self.second, self.memory
        # Bursts: their owner enters both queues at the same time.
        m.submodules.bursts = bursts = SkidBuffer(shape=memory.aw.payload.shape())
        m.submodules.senders = senders = Queue(shape=1, depth=self.max_outstanding)
        m.submodules.receivers = receivers = Queue(shape=1, depth=self.max_outstanding)
        wiring.connect(m, bursts.o, wiring.flipped(memory.aw))
        places = (bursts.i, senders.i, receivers.i)
        offered = first.aw.valid | second.aw.valid
        may = Signal()
        m.d.comb += may.eq(Cat(place.ready for place in places).all())
        for place in places:
            m.d.comb += place.valid.eq(offered & may)
        m.d.comb += [
            bursts.i.payload.eq(
                Mux(
                    first.aw.valid,
                    first.aw.payload.as_value(),
                    second.aw.payload.as_value(),
                )
            ),
            senders.i.payload.eq(~first.aw.valid),
            receivers.i.payload.eq(~first.aw.valid),
            first.aw.ready.eq(may),
            second.aw.ready.eq(may & ~first.aw.valid),
        ]
        # Beats.
        m.submodules.beats = beats = SkidBuffer(shape=memory.w.payload.shape())
        wiring.connect(m, beats.o, wiring.flipped(memory.w))
        from_second = senders.o.payload
        m.d.comb += [
            beats.i.payload.eq(
                Mux(from_second, second.w.payload.as_value(), first.w.payload.as_value())
            ),
            beats.i.valid.eq(senders.o.valid & Mux(from_second, second.w.valid, first.w.valid)),
            first.w.ready.eq(senders.o.valid & ~from_second & beats.i.ready),
            second.w.ready.eq(senders.o.valid & from_second & beats.i.ready),
            senders.o.ready.eq(beats.i.valid & beats.i.ready & beats.i.payload.last),
        ]
        # Answers.
        m.submodules.answers = answers = SkidBuffer(shape=memory.b.payload.shape())
        wiring.connect(m, wiring.flipped(memory.b), answers.i)
        to_second = receivers.o.payload
        m.d.comb += [
            first.b.payload.eq(answers.o.payload),
            second.b.payload.eq(answers.o.payload),
            first.b.valid.eq(answers.o.valid & receivers.o.valid & ~to_second),
            second.b.valid.eq(answers.o.valid & receivers.o.valid & to_second),
            answers.o.ready.eq(receivers.o.valid & Mux(to_second, second.b.ready, first.b.ready)),
            receivers.o.ready.eq(answers.o.valid & answers.o.ready),
        ]
        return m
