"""One output lane of the array: R multipliers, an adder tree and an accumulator."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.timing import ArrayTiming
from intaglio_hw import primitives
from intaglio_hw.accumulator import ACCUMULATOR_BITS, Accumulator, access_layout
from intaglio_hw.interfaces import ReadPortSignature

__all__ = ["Lane", "Multiplier", "pixel_layout", "weight_layout"]

#: Width of a code and of a product of two.
_CODE_BITS = 8
_PRODUCT_BITS = 2 * _CODE_BITS


class Multiplier(wiring.Component):
    """int8 x int8 multiplier with a weight register.

    Parameters
    ----------
    kind
        ``"dsp"``: one product that synthesis maps to a multiplier block; ``"logic"``: radix-4 Booth
        digits and adders.
    family
        Whose multiplier block (:mod:`intaglio_hw.primitives`).

    Members
    -------
    pixel, weight
        Codes; ``weight`` is taken in cycles with ``load`` and kept.
    product
        In cycle ``t + LATENCY``: ``pixel`` of cycle ``t`` times the weight last loaded in cycle
        ``t`` or before.
    """

    LATENCY = ArrayTiming.MULTIPLY

    def __init__(self, *, kind: str, family: str = "generic") -> None:
        if kind not in ("dsp", "logic"):
            raise ValueError(f"kind must be 'dsp' or 'logic', not {kind!r}")
        self.kind, self.family = kind, family
        super().__init__(
            {
                "pixel": In(signed(_CODE_BITS)),
                "weight": In(signed(_CODE_BITS)),
                "load": In(1),
                "product": Out(signed(_PRODUCT_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.kind == "dsp":
            m.submodules.block = block = primitives.Multiplier(
                a_width=_CODE_BITS, b_width=_CODE_BITS, family=self.family
            )
            assert block.LATENCY == self.LATENCY
            m.d.comb += [
                block.a.eq(self.pixel),
                block.b.eq(self.weight),
                block.enable.eq(1),
                block.load.eq(self.load),
                self.product.eq(block.product),
            ]
            return m

        # Stage 1: input registers.
        pixel = Signal(signed(_CODE_BITS), reset_less=True)
        weight = Signal(signed(_CODE_BITS), reset_less=True)
        m.d.sync += pixel.eq(self.pixel)
        with m.If(self.load):
            m.d.sync += weight.eq(self.weight)

        product = Signal(signed(_PRODUCT_BITS), reset_less=True)
        # weight = sum of digit * 4**i, digit = w[2i - 1] + w[2i] - 2 * w[2i + 1] in [-2, 2].
        bits = Cat(Const(0, 1), weight)
        terms = []
        for i in range(_CODE_BITS // 2):
            below, at, above = bits[2 * i], bits[2 * i + 1], bits[2 * i + 2]
            magnitude = Signal(signed(_CODE_BITS + 1), name=f"magnitude{i}")
            # |digit| is one if the lower bits differ, two if they agree and differ from the
            # upper one.
            m.d.comb += magnitude.eq(Mux(below ^ at, pixel, Mux(at ^ above, pixel << 1, 0)))
            term = Signal(signed(_CODE_BITS + 2), name=f"term{i}")
            m.d.comb += term.eq(Mux(above, -magnitude, magnitude))
            terms.append(term << (2 * i))
        # Stage 2: two sums of two digits. Stage 3: the product.
        halves = [Signal(signed(_PRODUCT_BITS), name=f"half{i}", reset_less=True) for i in range(2)]
        m.d.sync += [
            halves[0].eq(terms[0] + terms[1]),
            halves[1].eq(terms[2] + terms[3]),
            product.eq(halves[0] + halves[1]),
        ]
        m.d.comb += self.product.eq(product)
        return m


def weight_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of a weight vector on its way to lane ``index``."""
    return data.StructLayout(
        {
            "valid": 1,
            "index": max(1, (config.K - 1).bit_length()),
            "data": data.ArrayLayout(signed(_CODE_BITS), config.R),
        }
    )


def pixel_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of a pixel vector; ``swap``: new weights are used from this pixel on."""
    return data.StructLayout({"swap": 1, "data": data.ArrayLayout(signed(_CODE_BITS), config.R)})


class Lane(wiring.Component):
    """Lane ``index``: the products of a pixel with its weights, summed and accumulated.

    What comes in at the ``*_in`` members goes out one cycle later at ``*_out``, to the next lane;
    without ``chained`` in the same cycle, and the cycles below are one less.

    Members
    -------
    weight_in
        A weight vector; if it is meant for this lane it is kept in the shadow registers.
    pixel_in
        In cycle ``t``: a pixel vector. ``swap``: the shadow weights become the active ones for this
        and all later pixels.
    read_in
        In cycle ``t + READ_CYCLE``: which sum to add to (see
        :class:`~intaglio_hw.accumulator.Accumulator`).
    write_in
        In cycle ``t + WRITE_CYCLE``: where the new sum goes.
    drain
        Read port for the vector unit: that of the accumulator, not delayed by the chain.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        index: int,
        family: str = "generic",
        chained: bool = True,
    ) -> None:
        if not 0 <= index < config.K:
            raise ValueError(f"index must be in [0, {config.K - 1}], not {index}")
        self.config, self.index, self.family, self.chained = config, index, family, chained
        # In lane k the registers of the chain add one cycle to all inputs alike.
        self.READ_CYCLE = Multiplier.LATENCY + ArrayTiming(config).tree - Accumulator.SUM_CYCLE
        self.WRITE_CYCLE = self.READ_CYCLE + Accumulator.WRITE_CYCLE
        weight, pixel = weight_layout(config), pixel_layout(config)
        access = access_layout(config.acc_depth)
        super().__init__(
            {
                "weight_in": In(weight),
                "weight_out": Out(weight),
                "pixel_in": In(pixel),
                "pixel_out": Out(pixel),
                "read_in": In(access),
                "read_out": Out(access),
                "write_in": In(access),
                "write_out": Out(access),
                "drain": In(ReadPortSignature(depth=2 * config.acc_depth, width=ACCUMULATOR_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config

        # Stage 1: the chain. Only what can change a memory is reset.
        weight = Signal(self.weight_in.shape(), reset_less=True)
        pixel = Signal(self.pixel_in.shape(), reset_less=True)
        read = Signal(self.read_in.shape(), reset_less=True)
        write = Signal(self.write_in.shape())
        domain = m.d.sync if self.chained else m.d.comb
        domain += [
            weight.eq(self.weight_in),
            pixel.eq(self.pixel_in),
            read.eq(self.read_in),
            write.eq(self.write_in),
        ]
        m.d.comb += [
            self.weight_out.eq(weight),
            self.pixel_out.eq(pixel),
            self.read_out.eq(read),
            self.write_out.eq(write),
        ]

        # The shadow weights.
        shadow = Signal(weight.data.shape(), reset_less=True)
        with m.If(weight.valid & (weight.index == self.index)):
            m.d.sync += shadow.eq(weight.data)

        # The products.
        terms = []
        for i in range(config.R):
            m.submodules[f"multiplier{i}"] = multiplier = Multiplier(
                kind=config.multiplier, family=self.family
            )
            m.d.comb += [
                multiplier.pixel.eq(pixel.data[i]),
                multiplier.weight.eq(shadow[i]),
                multiplier.load.eq(pixel.swap),
            ]
            terms.append(multiplier.product)

        # The tree, one register a level; a sum of two needs one more bit.
        level = 0
        while len(terms) > 1:
            sums = [
                Signal(signed(len(terms[0]) + 1), name=f"tree{level}_{i}", reset_less=True)
                for i in range(len(terms) // 2)
            ]
            m.d.sync += [
                target.eq(terms[2 * i] + terms[2 * i + 1]) for i, target in enumerate(sums)
            ]
            terms = sums
            level += 1

        # The tree lies at the multipliers, the accumulator at its memory: a cycle for the way.
        total = Signal(terms[0].shape(), reset_less=True)
        m.d.sync += total.eq(terms[0])

        m.submodules.accumulator = accumulator = Accumulator(
            depth=config.acc_depth, sum_width=len(total), family=self.family
        )
        m.d.comb += [
            accumulator.sum.eq(total),
            accumulator.read.eq(read),
            accumulator.write.eq(write),
        ]
        wiring.connect(m, wiring.flipped(self.drain), accumulator.drain)
        return m
