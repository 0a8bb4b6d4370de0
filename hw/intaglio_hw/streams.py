"""Buffers between streams (``amaranth.lib.stream``), and the counter of what is inside."""

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue", "SkidBuffer", "Tally", "TwinBuffer"]


class Tally(wiring.Component):
    """Count from 0 to ``size``, one register for each place: ``level[i]`` while more than i are in.

    Empty, full and nearly so are registers, and each next one follows from its neighbours alone.
    ``room``, below ``size``, is one more. ``up`` and ``down`` together change nothing; ``up`` at
    ``size`` and ``down`` at 0 are not given.

    Parameters
    ----------
    size
        Largest count, at least 2.
    """

    def __init__(self, *, size: int) -> None:
        super().__init__({"up": In(1), "down": In(1), "level": Out(size), "room": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above, below = Cat(self.level[1:], 0), Cat(1, self.level[:-1])
        # A sum of products, not a choice: that would become a reset, a table later.
        up = self.up.replicate(len(self.level))
        with m.If(self.up ^ self.down):
            m.d.sync += [
                self.level.eq((below & up) | (above & ~up)),
                self.room.eq(~(self.up & self.level[-2])),
            ]
        return m


class _Buffer(wiring.Component):
    """What a buffer of two payloads between two streams has outside.

    Parameters
    ----------
    shape
        Shape of the payload.
    """

    #: Cycles from input to output of an empty buffer.
    LATENCY = 1

    def __init__(self, *, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})


class SkidBuffer(_Buffer):
    """Cut every combinational path between two streams.

    Holds up to two payloads: ``o.valid``, ``o.payload`` and ``i.ready`` are all registers. Order is
    kept, nothing is lost or repeated; one payload per cycle. A payload that enters in cycle t is at
    ``o`` in cycle t + LATENCY, or later if older ones wait.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The spare register takes the payload of the one cycle in which the input does not know yet
        # that the output waits.
        spare = Signal.like(self.i.payload, reset_less=True)
        front = Signal.like(self.o.payload, reset_less=True)
        front_full = Signal()
        spare_full = Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_full),
            self.o.valid.eq(front_full),
            self.o.payload.eq(front),
        ]
        # While it is free it takes whatever comes: its enable needs nothing from either side.
        with m.If(~spare_full):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(self.o.ready | ~front_full):
            m.d.sync += [front_full.eq(spare_full | self.i.valid), spare_full.eq(0)]
            with m.If(spare_full):
                m.d.sync += front.eq(spare)
            with m.Else():
                m.d.sync += front.eq(self.i.payload)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += spare_full.eq(1)
        return m


class TwinBuffer(_Buffer):
    """Two places between two streams, for a reader whose ``ready`` comes late.

    As :class:`SkidBuffer`, but ``o.ready`` leads to a pointer and a count, to no payload;
    ``o.payload`` is a choice between two registers.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inside = inside = Tally(size=2)
        places = [Signal.like(self.i.payload, name=f"place{i}", reset_less=True) for i in range(2)]
        write, read = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(inside.room),
            self.o.valid.eq(inside.level[0]),
            self.o.payload.eq(Mux(read, Cat(places[1]), Cat(places[0]))),
            inside.up.eq(self.i.valid & self.i.ready),
            inside.down.eq(self.o.valid & self.o.ready),
        ]
        m.d.sync += [write.eq(write ^ inside.up), read.eq(read ^ inside.down)]
        for i, place in enumerate(places):
            # The one that comes next takes whatever is there.
            with m.If(self.i.ready & (write == i)):
                m.d.sync += place.eq(self.i.payload)
        return m


class Queue(wiring.Component):
    """A first-in first-out queue of ``depth`` payloads with a registered output.

    ``i.ready`` is low when ``depth`` payloads wait. One payload per cycle; one that enters an empty
    queue in cycle t is at ``o`` in cycle t + LATENCY. ``empty``: no payload inside.

    Parameters
    ----------
    shape
        Shape of the payload.
    depth
        Payloads held, at least 3: below, it could not take one in every cycle.

    Raises
    ------
    ValueError
        ``depth`` below 3.
    """

    #: Cycles from input to output of an empty queue.
    LATENCY = 2

    def __init__(self, *, shape: ShapeLike, depth: int) -> None:
        if depth < 3:
            raise ValueError(f"depth must be at least 3, not {depth}")
        self.depth = depth
        self._width = Shape.cast(shape).width
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # One payload is at the output. The pointers wrap by themselves: rows beyond depth - 1 only
        # make the rotation longer.
        rows = 1 << (self.depth - 2).bit_length()
        m.submodules.storage = storage = memory.Memory(
            shape=unsigned(self._width), depth=rows, init=[]
        )
        m.submodules.inside = inside = Tally(size=self.depth - 1)
        write, read = storage.write_port(), storage.read_port(domain="comb")
        front = Signal(self._width, reset_less=True)
        # The second is the complement, for the count: the first has all the payload to tell.
        front_full = Signal()
        front_empty = Signal(init=1)
        free = Signal()
        m.d.comb += [
            free.eq(self.o.ready | ~front_full),
            inside.up.eq(self.i.valid & self.i.ready),
            inside.down.eq((self.o.ready | front_empty) & inside.level[0]),
            self.i.ready.eq(inside.room),
            self.o.valid.eq(front_full),
            Cat(self.o.payload).eq(front),
            self.empty.eq(~(front_full | inside.level[0])),
            # The row that comes next takes whatever is there: its enable is a register.
            write.en.eq(self.i.ready),
            write.data.eq(Cat(self.i.payload)),
        ]
        with m.If(inside.up):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(inside.down):
            m.d.sync += read.addr.eq(read.addr + 1)
        with m.If(free):
            m.d.sync += [front.eq(read.data), front_full.eq(inside.level[0])]
        with m.If(self.o.ready | front_empty):
            m.d.sync += front_empty.eq(~inside.level[0])
        return m
