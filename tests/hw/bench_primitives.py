"""Two descriptions of a block beside each other: equal in every cycle in which it is defined."""

import json
import os

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


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(moving_and_near=[(1.0, 0.0), (0.6, 0.8)])
async def blocks_agree(dut, moving_and_near):
    moving, near = moving_and_near
    rng = bench_rng(f"primitives {moving} {near}")
    pairs = [
        MultiplierPair(dut, index, sizes, rng, moving=moving)
        if kind == "multiplier"
        else RamPair(dut, index, sizes, rng, near=near)
        for index, (kind, sizes) in enumerate(PAIRS)
    ]
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    for _ in range(CYCLES):
        for pair in pairs:
            pair.drive()
        await edge
        for pair in pairs:
            pair.check()
    for pair in pairs:
        assert pair.checked > CYCLES // 2, pair.sizes
        bits = pair.sizes[1] if isinstance(pair, RamPair) else sum(pair.sizes)
        assert len(pair.different) > min(100, 2**bits // 2), pair.sizes
