"""The scratchpads in one memory, and the engine's view of it: words and bytes at a pointer."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import check_family
from intaglio_hw.primitives.single_port import SinglePortRam
from intaglio_hw.sequential.interface import Port, Source

__all__ = ["WordMemory"]

_WORD = 16
#: Words in a vector.
_WORDS = 4


class WordMemory(wiring.Component):
    """A memory of vectors for whoever is busy, of words for the engine.

    Parameters
    ----------
    vectors
        In the memory: the depth of a :class:`~intaglio_hw.primitives.single_port.SinglePortRam`.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    port, value, write, source, take
        As the engine has them; ``port`` a cycle before ``write``, too.
    wanted
        In phase 0: operand b is from here.
    scratch
        What the engine's pointer is at, in phase 1, as ``source`` says: the word, or one of its
        bytes, sign-extended; zero if it is not wanted.
    codes, write_code, code
        ``codes``: the drain datapath has the pointer. With ``write_code`` the byte at the pointer
        is written, which moves on by ``QSTEP`` vectors.
    busy
        The following have the memory.
    address, write_data, write_en
        A vector that is written with ``write_en``, and read otherwise.
    data
        The vector at the ``address`` of the cycle before, if that did not write.
    """

    def __init__(self, *, vectors: int, family: str = "generic") -> None:
        self.vectors, self.family = vectors, check_family(family)
        super().__init__(
            {
                "port": In(6),
                "value": In(_WORD),
                "write": In(1),
                "source": In(4),
                "take": In(1),
                "wanted": In(1),
                "scratch": Out(_WORD),
                "codes": In(1),
                "write_code": In(1),
                "code": In(8),
                "busy": In(1),
                "address": In(range(vectors)),
                "write_data": In(_WORDS * _WORD),
                "write_en": In(1),
                "data": Out(_WORDS * _WORD),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.ram = ram = SinglePortRam(
            width=_WORDS * _WORD, depth=self.vectors, family=self.family
        )
        pointer = Signal(range(_WORDS * self.vectors), reset_less=True)
        upper = Signal(reset_less=True)  # the byte of a word that is meant

        def early(name: str, value: Value) -> Signal:
            # Port and source are there a cycle before.
            signal = Signal(len(value), name=name)
            m.d.sync += signal.eq(value)
            return signal

        def given(port: Port) -> Value:
            return self.write & early(f"is_{port.name.lower()}", self.port == port)

        is_byte = early("is_spbyte", self.port == Port.SPBYTE)
        is_write = early(
            "is_write", Cat(self.port == p for p in (Port.SPW, Port.SPWI, Port.SPBYTE)).any()
        )
        takes_on = early("takes_on", self.source == Source.SPWI)
        step = Signal(8, reset_less=True)
        with m.If(given(Port.QSTEP)):
            m.d.sync += step.eq(self.value)
        with m.If(given(Port.BSEL)):
            m.d.sync += upper.eq(self.value)
        moves = (self.take & takes_on) | given(Port.SPWI) | self.write_code
        with m.If(given(Port.SPA)):
            m.d.sync += pointer.eq(self.value)
        with m.Elif(moves):
            m.d.sync += pointer.eq(pointer + Mux(self.codes, step * _WORDS, 1))

        low = Mux(self.codes, self.code, self.value[:8])
        bytewise = self.codes | is_byte
        value = Cat(low, Mux(bytewise, low, self.value[8:]))
        bytes_ = Cat(~(bytewise & upper), ~(bytewise & ~upper))
        mask = Cat(
            bytes_ & (pointer[:2] == index).replicate(len(bytes_)) for index in range(_WORDS)
        )
        m.d.comb += [
            ram.addr.eq(Mux(self.busy, self.address, pointer[2:])),
            ram.write_data.eq(Mux(self.busy, self.write_data, value.replicate(_WORDS))),
            ram.write_mask.eq(Mux(self.busy, ~0, mask)),
            ram.write.eq(Mux(self.busy, self.write_en, (self.write & is_write) | self.write_code)),
            self.data.eq(ram.read_data),
        ]
        # The memory is late: a gate for each byte that may be meant, opened a cycle before, and an
        # OR of few levels.
        words = [ram.read_data.word_select(index, _WORD) for index in range(_WORDS)]
        at = [pointer[:2] == index for index in range(_WORDS)]
        byte = self.source == Source.SBX
        gates = {
            "lower": [here & self.wanted & ~(byte & upper) for here in at],
            "crossed": [here & self.wanted & byte & upper for here in at],
            "upper": [here & self.wanted & ~byte for here in at],
            "sign_lower": [here & self.wanted & byte & ~upper for here in at],
            "sign_upper": [here & self.wanted & byte & upper for here in at],
        }
        opened = {name: early(f"gate_{name}", Cat(bits)) for name, bits in gates.items()}

        def gated(name: str, bit: int) -> Value:
            return Cat(gate & word[bit] for gate, word in zip(opened[name], words, strict=True))

        sign = Cat(gated("sign_lower", 7), gated("sign_upper", 15)).any()
        for bit in range(8):
            m.d.comb += [
                self.scratch[bit].eq(Cat(gated("lower", bit), gated("crossed", 8 + bit)).any()),
                self.scratch[8 + bit].eq(gated("upper", 8 + bit).any() | sign),
            ]
        return m
