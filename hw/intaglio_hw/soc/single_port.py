"""A memory with one port on the memory bus, and the arbiter of two managers, one burst at a time.

What a chip needs that has few flip-flops, and an accelerator that has one burst at a time: no
payload is kept anywhere.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.csr import OKAY, SLVERR
from intaglio_hw.interfaces import AxiReadSignature, AxiWriteSignature
from intaglio_hw.primitives import check_family
from intaglio_hw.primitives.single_port import SinglePortRam
from intaglio_hw.soc.memory import check_memory_bytes, inside

__all__ = ["BurstArbiter", "MemorySignature", "SinglePortMemory", "check_single_port_bytes"]


class MemorySignature(wiring.Signature):
    """Both directions of the memory bus, as a manager sees them: ``read``, ``write``."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {"read": Out(AxiReadSignature(config)), "write": Out(AxiWriteSignature(config))}
        )


def check_single_port_bytes(memory_bytes: int, config: AcceleratorConfig) -> int:
    """Return ``memory_bytes``; ValueError if no :class:`SinglePortMemory` has that size."""
    most = SinglePortRam.LARGEST * config.bus_bytes
    if check_memory_bytes(memory_bytes) > most:
        raise ValueError(f"memory_bytes must be at most {most}, not {memory_bytes}")
    return memory_bytes


class SinglePortMemory(wiring.Component):
    """A memory of single-port RAM behind the read and write channels of an AXI4 subordinate.

    1. It begins at bus address 0. A burst that begins outside of it is answered with SLVERR in each
       beat, reads as anything and writes nothing; as no burst crosses a 4096-byte boundary, none
       ends outside that begins inside.
    2. One burst at a time; reads go first. A read whose address is taken after the answer to a
       write sees what was written.
    3. Within a burst a beat is written in each cycle, and read in every second one: the row does
       not depend on whether the beat before is taken.

    Parameters
    ----------
    config
        Bus width.
    memory_bytes
        Its size, a multiple of 4096 up to 16,384 beats.
    family
        Whose single-port RAM.

    Bytes are undefined at power-up and survive a reset.
    """

    #: Cycles from the address of a read to its first beat.
    LATENCY = 2

    def __init__(
        self, *, config: AcceleratorConfig, memory_bytes: int, family: str = "generic"
    ) -> None:
        self.config = config
        self.memory_bytes = check_single_port_bytes(memory_bytes, config)
        self.family = check_family(family)
        super().__init__(
            {"read": In(AxiReadSignature(config)), "write": In(AxiWriteSignature(config))}
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.ram = ram = SinglePortRam(width=8 * config.bus_bytes, family=self.family)
        shift = (config.bus_bytes - 1).bit_length()
        ar, r = self.read.ar, self.read.r
        aw, w, b = self.write.aw, self.write.w, self.write.b
        row = Signal(range(ram.depth), reset_less=True)
        left = Signal(8, reset_less=True)  # beats after the one that is read
        good = Signal(reset_less=True)
        moves = Signal()  # a beat
        response = Mux(good, OKAY, SLVERR)
        m.d.comb += [
            ram.addr.eq(row),
            ram.write_data.eq(w.payload.data),
            ram.write_mask.eq(-1),
            r.payload.data.eq(ram.read_data),
            r.payload.resp.eq(response),
            r.payload.last.eq(left == 0),
            b.payload.resp.eq(response),
        ]
        with m.If(moves):
            m.d.sync += [row.eq(row + 1), left.eq(left - 1)]

        def begin(order) -> None:
            m.d.sync += [
                row.eq(order.payload.addr[shift:]),
                left.eq(order.payload.len),
                good.eq(inside(order.payload.addr, self.memory_bytes)),
            ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [ar.ready.eq(1), aw.ready.eq(~ar.valid)]
                with m.If(ar.valid):
                    begin(ar)
                    m.next = "READ"
                with m.Elif(aw.valid):
                    begin(aw)
                    m.next = "WRITE"
            with m.State("READ"):
                m.next = "BEAT"
            with m.State("BEAT"):
                m.d.comb += [r.valid.eq(1), moves.eq(r.ready)]
                with m.If(r.ready):
                    m.next = "READ"
                    with m.If(left == 0):
                        m.next = "IDLE"
            with m.State("WRITE"):
                m.d.comb += [ram.write.eq(w.valid & good), w.ready.eq(1), moves.eq(w.valid)]
                with m.If(w.valid & w.payload.last):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += b.valid.eq(1)
                with m.If(b.ready):
                    m.next = "IDLE"
        return m


class BurstArbiter(wiring.Component):
    """Merge two managers of the memory into one, which has one burst at a time.

    1. Reads of ``first`` go before its writes, these before reads and writes of ``second``; a burst
       that is offered at ``memory`` stays.
    2. The next burst is offered when the last beat of a read, or the answer to a write, has gone.
    3. A manager that does not take its beats, or holds back its own, holds up the other.

    Parameters
    ----------
    config
        Bus width.
    """

    #: Cycles from a manager's burst to the memory.
    LATENCY = 1

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        signature = MemorySignature(config)
        super().__init__(
            {"first": In(signature), "second": In(signature), "memory": Out(signature)}
        )

    def elaborate(self, platform):
        m = Module()
        memory, managers = self.memory, (self.first, self.second)
        owner = Signal()  # second
        # What goes to the memory is the owner's, what comes from it goes to both; whether it counts
        # is said by ``valid`` and ``ready`` alone.
        for channel, bus in (("ar", "read"), ("aw", "write"), ("w", "write")):
            first, second, target = (
                getattr(getattr(each, bus), channel).payload for each in (*managers, memory)
            )
            m.d.comb += target.as_value().eq(Mux(owner, second.as_value(), first.as_value()))
        for manager in managers:
            m.d.comb += [
                manager.read.r.payload.eq(memory.read.r.payload),
                manager.write.b.payload.eq(memory.write.b.payload),
            ]

        def towards(bus: str, channel: str) -> tuple[Signal, Signal]:
            """Let a channel to the memory through; return its ``valid`` and ``ready``."""
            target = getattr(getattr(memory, bus), channel)
            sources = [getattr(getattr(each, bus), channel) for each in managers]
            m.d.comb += target.valid.eq(Mux(owner, sources[1].valid, sources[0].valid))
            for index, source in enumerate(sources):
                m.d.comb += source.ready.eq(target.ready & (owner == index))
            return target.valid, target.ready

        def back(bus: str, channel: str) -> tuple[Signal, Signal]:
            """Let a channel from the memory through; return its ``valid`` and ``ready``."""
            source = getattr(getattr(memory, bus), channel)
            targets = [getattr(getattr(each, bus), channel) for each in managers]
            m.d.comb += source.ready.eq(Mux(owner, targets[1].ready, targets[0].ready))
            for index, target in enumerate(targets):
                m.d.comb += target.valid.eq(source.valid & (owner == index))
            return source.valid, source.ready

        orders = [order for each in managers for order in (each.read.ar, each.write.aw)]
        wanted = Cat(order.valid for order in orders)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += owner.eq(~wanted[:2].any())
                with m.If(wanted[0] | (~wanted[1] & wanted[2])):
                    m.next = "READ_ORDER"
                with m.Elif(wanted.any()):
                    m.next = "WRITE_ORDER"
            with m.State("READ_ORDER"):
                _, ready = towards("read", "ar")
                with m.If(ready):
                    m.next = "READ"
            with m.State("READ"):
                valid, ready = back("read", "r")
                with m.If(valid & ready & memory.read.r.payload.last):
                    m.next = "IDLE"
            with m.State("WRITE_ORDER"):
                _, ready = towards("write", "aw")
                with m.If(ready):
                    m.next = "WRITE"
            with m.State("WRITE"):
                valid, ready = towards("write", "w")
                with m.If(valid & ready & memory.write.w.payload.last):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                valid, ready = back("write", "b")
                with m.If(valid & ready):
                    m.next = "IDLE"
        return m
