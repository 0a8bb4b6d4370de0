"""Two descriptions of a block beside each other: equal in every cycle in which it is defined."""

import json
import os
from functools import partial

import cocotb
from cocotb.triggers import RisingEdge

from intaglio_sim.bfm import start_clock
from intaglio_sim.stimulus import bench_rng

#: For each pair: kind and sizes.
PAIRS = json.loads(os.environ["PAIRS"])
CYCLES = 500


def edge_value(rng, width: int) -> int:
    """Return random bits, in a quarter of the cases an extreme."""
    ends = [0, (1 << width) - 1, 1 << (width - 1), (1 << (width - 1)) - 1]
    return rng.choice(ends) if rng.random() < 0.25 else rng.getrandbits(width)


class Pair:
    """Drives a pair before each edge, ``drive()``, and looks at it afterwards, ``check()``."""

    def __init__(self, dut, index: int, sizes: list[int], rng) -> None:
        self.dut, self.index, self.sizes, self.rng = dut, index, sizes, rng
        self.checked, self.different = 0, set()

    def port(self, name: str):
        return getattr(self.dut, f"pair{self.index}_{name}")

    def compare(self) -> None:
        portable, block = self.port("portable").value, self.port("block").value
        assert portable.is_resolvable and block.is_resolvable, (self.sizes, portable, block)
        assert portable == block, (self.sizes, portable, block)
        self.different.add(int(block))
        self.checked += 1


class MultiplierPair(Pair):
    """Random factors; ``moving``: how often a register may move."""

    def __init__(self, *arguments, moving: float) -> None:
        super().__init__(*arguments)
        self.moving, self.filled = moving, 0

    def drive(self) -> None:
        rng = self.rng
        self.port("a").value = edge_value(rng, self.sizes[0])
        self.port("b").value = edge_value(rng, self.sizes[1])
        self.enable = rng.random() < self.moving or self.filled == 0
        self.port("enable").value = int(self.enable)
        self.port("load").value = int(rng.random() < self.moving or self.filled == 0)

    def check(self) -> None:
        if self.filled > 3:
            self.compare()
        self.filled += self.enable


class RamPair(Pair):
    """Random writes and reads; with ``near``, mostly reads of the row written last. The power-up
    contents are read in the first run.
    """

    def __init__(self, *arguments, near: float) -> None:
        super().__init__(*arguments)
        depth, rng = self.sizes[0], self.rng
        self.near, self.last, self.usable = near, 0, []
        self.rows = [
            0,
            1,
            depth // 2,
            depth - 2,
            depth - 1,
            *(rng.randrange(depth) for _ in "x" * 16),
        ]

    def drive(self) -> None:
        _, width, granularity = self.sizes
        rng = self.rng
        write, enable = rng.choice(self.rows), edge_value(rng, width // granularity)
        read = self.last if rng.random() < self.near else rng.choice(self.rows)
        self.port("write_addr").value = write
        self.port("write_data").value = edge_value(rng, width)
        self.port("write_en").value = enable
        self.port("read_addr").value = read
        self.usable.append(not (read == write and enable))
        self.last = write

    def check(self) -> None:
        if len(self.usable) > 2 and self.usable.pop(0):
            self.compare()


class BytesPair(Pair):
    """Random bytes; ``moving``: how often the second factor is loaded."""

    def __init__(self, *arguments, moving: float) -> None:
        super().__init__(*arguments)
        self.moving, self.cycles = moving, 0

    def drive(self) -> None:
        (lanes,) = self.sizes
        for name in "ab":
            codes = [edge_value(self.rng, 8) << 8 * lane for lane in range(lanes)]
            self.port(name).value = sum(codes)
        self.port("load").value = int(self.rng.random() < self.moving or self.cycles == 0)

    def check(self) -> None:
        if self.cycles > 2:
            self.compare()
        self.cycles += 1


class WordsPair(Pair):
    """Random factors; ``moving``: how often all registers move."""

    def __init__(self, *arguments, moving: float) -> None:
        super().__init__(*arguments)
        self.moving, self.filled = moving, 0

    def drive(self) -> None:
        for name in "ab":
            self.port(name).value = edge_value(self.rng, 16)
        self.enable = self.rng.random() < self.moving
        self.port("enable").value = int(self.enable)

    def check(self) -> None:
        self.filled += self.enable
        if self.filled > 2:
            self.compare()


class SinglePair(Pair):
    """Random writes and reads of a few rows, which are written first."""

    def __init__(self, *arguments, near: float) -> None:
        super().__init__(*arguments)
        self.near, self.last, self.reads = near, 0, [False]
        depth = self.sizes[1]
        self.rows = [0, 1, depth // 2, depth - 1, *(self.rng.randrange(depth) for _ in "x" * 9)]
        self.first = list(self.rows)

    def drive(self) -> None:
        width, _ = self.sizes
        rng = self.rng
        row = self.last if rng.random() < self.near else rng.choice(self.rows)
        enable = edge_value(rng, width // 8)
        first = bool(self.first)
        if first:
            row, enable = self.first.pop(), (1 << width // 8) - 1
        self.port("addr").value = self.last = row
        self.port("write_data").value = edge_value(rng, width)
        write = first or rng.random() < 0.5
        self.port("write_mask").value = enable
        self.port("write").value = int(write)
        self.reads.append(not write)

    def check(self) -> None:
        if self.reads.pop(0):
            self.compare()


class LatePair(Pair):
    """Random words."""

    def drive(self) -> None:
        (width,) = self.sizes
        self.port("select").value = self.rng.getrandbits(1)
        for name in ("late", "early"):
            self.port(name).value = edge_value(self.rng, width)

    def check(self) -> None:
        self.compare()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(moving_and_near=[(1.0, 0.0), (0.6, 0.8)])
async def blocks_agree(dut, moving_and_near):
    moving, near = moving_and_near
    rng = bench_rng(f"primitives {moving} {near}")
    make = {
        "multiplier": partial(MultiplierPair, moving=moving),
        "ram": partial(RamPair, near=near),
        "bytes": partial(BytesPair, moving=moving),
        "words": partial(WordsPair, moving=moving),
        "single": partial(SinglePair, near=near),
        "late": LatePair,
    }
    pairs = [make[kind](dut, index, sizes, rng) for index, (kind, sizes) in enumerate(PAIRS)]
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    for _ in range(CYCLES):
        for pair in pairs:
            pair.drive()
        await edge
        for pair in pairs:
            pair.check()
    for pair in pairs:
        assert pair.checked > CYCLES // (4 if isinstance(pair, SinglePair) else 2), pair.sizes
        bits = len(pair.port("block"))
        assert len(pair.different) > min(100, 2**bits // 2), pair.sizes
