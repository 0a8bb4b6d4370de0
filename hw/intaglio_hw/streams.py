"""Buffers between streams (``amaranth.lib.stream``): a register slice and a queue."""

from amaranth.hdl import Cat, Module, Shape, ShapeLike, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue", "SkidBuffer"]


class SkidBuffer(wiring.Component):
    """Cut every combinational path between two streams.

    Holds up to two payloads: ``o.valid``, ``o.payload`` and ``i.ready`` are all registers. Order is
    kept, nothing is lost or repeated; one payload per cycle. A payload that enters in cycle t is at
    ``o`` in cycle t + LATENCY, or later if older ones wait.

    Parameters
    ----------
    shape
        Shape of the payload.
    """

    #: Cycles from input to output of an empty buffer.
    LATENCY = 1

    def __init__(self, *, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

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


class Queue(wiring.Component):
    """A first-in first-out queue of ``depth`` payloads with a registered output.

    ``i.ready`` is low when ``depth`` payloads wait. One payload per cycle; one that enters an empty
    queue in cycle t is at ``o`` in cycle t + LATENCY. ``level`` is the number of payloads inside.

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
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = inner = fifo.SyncFIFOBuffered(width=self._width, depth=self.depth)
        m.d.comb += [
            inner.w_data.eq(Cat(self.i.payload)),
            inner.w_en.eq(self.i.valid),
            self.i.ready.eq(inner.w_rdy),
            Cat(self.o.payload).eq(inner.r_data),
            self.o.valid.eq(inner.r_rdy),
            inner.r_en.eq(self.o.ready),
            self.level.eq(inner.level),
        ]
        return m
