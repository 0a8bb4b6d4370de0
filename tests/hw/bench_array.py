"""ArrayUnit against numpy: sums, errors, and every cycle of the timing formula."""

import random

import cocotb
import numpy as np
from array_golden import array_golden, random_array, scratchpad
from cocotb.triggers import ClockCycles, RisingEdge

from intaglio.spec import isa
from intaglio.spec.isa import Error
from intaglio.spec.timing import ArraySchedule, ArrayTiming
from intaglio_hw.interfaces import DRAIN_LATENCY, IN_FLIGHT
from intaglio_sim.bfm import ReadPort, UnitDriver, start_clock
from intaglio_sim.runner import bench_config

CONFIG = bench_config()
TIMING = ArrayTiming(CONFIG)

#: A complete instruction; tests change what they are about.
PLAIN = {
    "ifm_base": 3, "ifm_rows": 5, "ifm_cols": 6, "ifm_plane": 30, "blocks": 1,
    "kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1,
    "offset_h": 0, "offset_w": 0, "out_rows": 5, "out_cols": 6, "wgt_base": CONFIG.K,
    "acc_bank": 0, "accumulate": 0, "pad_code": -7,
}  # fmt: skip


class Rig:
    """The unit between scratchpads and a sequencer, with a numpy copy of its accumulators."""

    def __init__(self, dut, name: str, *, rate: float = 1.0):
        self.dut = dut
        self.rng = random.Random(f"{cocotb.RANDOM_SEED} {name}")
        self.ifm = scratchpad(self.rng, CONFIG.ifm_depth, CONFIG.R)
        self.wgt = scratchpad(self.rng, CONFIG.wgt_depth, CONFIG.R)
        self.acc = np.zeros((2, CONFIG.acc_depth, CONFIG.K), np.int64)
        self.rate = rate
        self.sent: list[dict[str, int]] = []
        self.expected: list[Error] = []
        self.cycle = 0
        self.offered: list[int] = []  # cycles
        self.accepted: list[int] = []
        self.done: list[int] = []
        self.busy: list[int] = []

    async def start(self) -> "Rig":
        self.dut.acc__addr.value = 0
        self.unit = UnitDriver(self.dut, isa.ARRAY, prefix="unit__", rate=self.rate, rng=self.rng)
        ReadPort(self.dut, "ifm", self.ifm)
        ReadPort(self.dut, "wgt", self.wgt)
        await start_clock(self.dut)
        cocotb.start_soon(self._watch())
        for bank in range(2):
            self.acc[bank] = await self.read(bank)
        return self

    async def _watch(self) -> None:
        dut, edge, waiting = self.dut, RisingEdge(self.dut.clk), False
        valid, ready = dut.unit__instruction__valid, dut.unit__instruction__ready
        while True:
            await edge
            self.cycle += 1
            if int(valid.value):
                if not waiting:
                    self.offered.append(self.cycle)
                waiting = not int(ready.value)
                if not waiting:
                    self.accepted.append(self.cycle)
            if int(dut.unit__done.value):
                self.done.append(self.cycle)
            if int(dut.busy_pixel.value):
                self.busy.append(self.cycle)

    def send(self, fields: dict[str, int]) -> Error:
        """Queue an instruction, run the golden one, and return the error to be expected."""
        error = array_golden(CONFIG, fields, self.ifm, self.wgt, self.acc)
        self.sent.append(fields)
        self.expected.append(error)
        self.unit.send(fields)
        return error

    async def finish(self, count: int | None = None) -> None:
        """Wait for the first ``count`` instructions, all by default, and check their errors."""
        count = len(self.sent) if count is None else count
        await self.unit.wait_done(count)
        assert self.unit.errors[:count] == self.expected[:count]

    async def read(self, bank: int, pixels: int = CONFIG.acc_depth) -> np.ndarray:
        """Return (pixels, K): read at full rate through the drain port, from the next edge on."""
        edge = RisingEdge(self.dut.clk)
        words = []
        for i in range(pixels + DRAIN_LATENCY):
            if i < pixels:
                self.dut.acc__addr.value = bank * CONFIG.acc_depth + i
            await edge
            if i >= DRAIN_LATENCY:
                words.append(int(self.dut.acc__data.value))
        row = b"".join(word.to_bytes(4 * CONFIG.K, "little") for word in words)
        return np.frombuffer(row, "<i4").reshape(pixels, CONFIG.K).astype(np.int64)

    async def check(self, bank: int, expected: np.ndarray | None = None, text="") -> None:
        """Compare a bank, its first pixels if ``expected`` has fewer, with the golden one."""
        expected = self.acc[bank].copy() if expected is None else expected
        actual = await self.read(bank, len(expected))
        if not np.array_equal(actual, expected):
            pixel, lane = (int(x) for x in np.argwhere(actual != expected)[0])
            raise AssertionError(
                f"{text} bank {bank} pixel {pixel} lane {lane}: got {actual[pixel, lane]}, "
                f"expected {expected[pixel, lane]} ({self.sent[-3:]})"
            )

    def check_cycles(self) -> None:
        """Compare all cycles with the schedule; every instruction must have been without error."""
        assert set(self.expected) == {Error.NONE}
        schedule, busy = ArraySchedule(CONFIG), list(self.busy)
        for i, (fields, offered) in enumerate(zip(self.sent, self.offered, strict=True)):
            cycles = schedule.issue(offered, fields)
            passes, pixels = TIMING.work(fields)
            count = passes * pixels
            actual = (self.accepted[i], busy[0] - TIMING.FETCH, busy[count - 1] - TIMING.FETCH)
            actual += (self.done[i],)
            assert actual == (cycles.accepted, cycles.first, cycles.last, cycles.done), (
                i,
                actual,
                cycles,
                fields,
            )
            starts = [b - TIMING.FETCH for b in busy[:count:pixels]]
            step = max(pixels, TIMING.min_pass)
            assert starts == [cycles.first + step * n for n in range(passes)]
            del busy[:count]
        assert not busy and len(self.done) == len(self.sent)


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(rate=[1.0, 0.05])
async def random_instructions(dut, rate):
    """Any instructions, in bursts of up to four; both banks compared whole after each burst."""
    rig = await Rig(dut, f"random {rate}", rate=rate).start()
    errors = 0
    for _ in range(32):
        undefined = set()
        for _ in range(rig.rng.randint(1, 4)):
            fields = random_array(CONFIG, rig.rng)
            if fields["acc_bank"] in undefined:
                fields["accumulate"] = 1  # what is undefined is not compared below
            if rig.send(fields) is not Error.NONE:
                undefined.add(fields["acc_bank"])
                errors += 1
        await rig.finish()
        for bank in range(2):
            if bank in undefined:
                rig.acc[bank] = await rig.read(bank)
            else:
                await rig.check(bank)
    assert errors


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(rate=[1.0, 0.02])
async def cycles(dut, rate):
    """Every cycle as scheduled, alone and overlapping; the sums of the whole chain at the end."""
    rig = await Rig(dut, f"cycles {rate}", rate=rate).start()
    while len(rig.sent) < 40:
        fields = random_array(CONFIG, rig.rng, max_passes=6)
        if rig.rng.random() < 0.3:
            fields |= {"out_rows": 1, "out_cols": rig.rng.randint(1, 12)}
        trial = rig.acc.copy()
        if array_golden(CONFIG, fields, rig.ifm, rig.wgt, trial) is Error.NONE:
            rig.send(fields)
    await rig.finish()
    await ClockCycles(dut.clk, 3)
    rig.check_cycles()
    for bank in range(2):
        await rig.check(bank)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def formula(dut):
    """The formula of an instruction that runs alone, and its corner: one pixel, one pass."""
    rig = await Rig(dut, "formula").start()
    for change in (
        {"out_rows": 1, "out_cols": 1},
        {"out_rows": 1, "out_cols": 1, "kernel_h": 2, "kernel_w": 3},
        {"kernel_w": 3, "blocks": 2},
        {"out_rows": 1, "out_cols": TIMING.min_pass, "kernel_h": 2},
        {"out_rows": TIMING.min_pass + 1, "out_cols": 1, "kernel_h": 2},
    ):
        rig.send(PLAIN | change)
        await rig.finish()
        await ClockCycles(dut.clk, 2)
        assert rig.done[-1] - rig.accepted[-1] == TIMING.latency(PLAIN | change), change
        await rig.check(0)
    rig.check_cycles()


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pixels=[1, 5, TIMING.min_pass, 20])
async def accumulates_back_to_back(dut, pixels):
    """A chain on one bank: each instruction needs the sums that the one before has just written."""
    rig = await Rig(dut, f"chain {pixels}").start()
    for i in range(12):
        rig.send(
            PLAIN
            | {
                "out_rows": 1,
                "out_cols": pixels,
                "ifm_cols": 20,
                "wgt_base": i * CONFIG.K,
                "accumulate": int(i % 6 > 0),
                "kernel_w": 1 + i % 2,
            }
        )
    await rig.finish()
    rig.check_cycles()
    await rig.check(0)
    await rig.check(1)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def drains_one_bank_while_filling_the_other(dut):
    """As the vector unit does: from the cycle of ``done`` on, while the next instruction runs."""
    rig = await Rig(dut, "drain").start()
    tiles = []
    for i in range(10):
        pixels = rig.rng.randint(2, CONFIG.acc_depth // 2)
        fields = random_array(
            CONFIG, rig.rng, max_passes=4, ifm_base=0, ifm_plane=0, ifm_rows=9, ifm_cols=9,
            out_rows=2, out_cols=pixels // 2, wgt_base=0, acc_bank=i % 2, accumulate=0,
        )  # fmt: skip
        assert rig.send(fields) is Error.NONE
        tiles.append(rig.acc[i % 2].copy()[: 2 * (pixels // 2)])
        if i:
            await rig.finish(i)
            await rig.check((i - 1) % 2, tiles[i - 1], text=f"tile {i - 1}")
    await rig.finish()
    await rig.check(1)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def last_pixel_is_visible_with_done(dut):
    """The address presented in the very cycle of ``done`` shows the last lane's last sum."""
    rig = await Rig(dut, "visible").start()
    dut.acc__addr.value = 29
    for i in range(3):
        rig.send(PLAIN | {"wgt_base": i * CONFIG.K})
        await rig.unit.wait_done(i + 1)
        # The edge that ended the cycle of done has passed; data is due DRAIN_LATENCY after its
        # start.
        for _ in range(DRAIN_LATENCY):
            word = int(dut.acc__data.value)
            await RisingEdge(dut.clk)
        word = int(dut.acc__data.value)
        for k in range(CONFIG.K):
            expected = int(rig.acc[0][29][k]) & 0xFFFFFFFF
            assert word >> (32 * k) & 0xFFFFFFFF == expected, (i, k)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def extremes(dut):
    """Largest and smallest sums of products, from the tile and from the padding."""
    rig = await Rig(dut, "extremes").start()
    deep = 12 * CONFIG.K
    for pixel, weight in ((-128, -128), (-128, 127), (127, -128), (127, 127)):
        rig.ifm[:60] = pixel
        rig.wgt[:deep] = weight
        rig.send(PLAIN | {"kernel_h": 2, "kernel_w": 3, "blocks": 2, "ifm_base": 0, "wgt_base": 0,
                          "pad_code": pixel})  # fmt: skip
        await rig.finish()
        assert set(rig.acc[0][:30].ravel()) == {12 * CONFIG.R * pixel * weight}
        await rig.check(0)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def positions_outside(dut):
    """Negative offsets, huge dilation, tiles that no position meets: pad_code, and no error."""
    rig = await Rig(dut, "outside").start()
    far = {"ifm_base": 65535, "ifm_plane": 65535, "blocks": 3}  # would be an error anywhere inside
    for change in (
        {"offset_h": -3, "offset_w": -4},
        {"offset_h": -1, "offset_w": -1, "kernel_h": 3, "kernel_w": 3},
        {"offset_h": -36, "offset_w": -36, "kernel_h": 3, "kernel_w": 3, "dilation_h": 36,
         "dilation_w": 36},
        {"offset_h": -4096, "offset_w": -4096, **far},
        {"offset_h": 4095, "offset_w": 4095, "stride_h": 255, "stride_w": 255, **far},
        {"offset_h": 0, "offset_w": 6, **far},
        {"offset_h": 5, "offset_w": 0, **far},
        {"offset_h": -5, "offset_w": 0, "ifm_rows": 4095, "ifm_cols": 4095, **far},
        {"offset_h": -255, "kernel_h": 2, "dilation_h": 255, "stride_h": 0},
        # Tiles wider than they are used: the products of set-up with all their bits.
        {"ifm_base": 0, "ifm_cols": 4095, "offset_h": -4096, "dilation_h": 255, "kernel_h": 18,
         "out_rows": 1, "out_cols": 6},
        {"ifm_base": 0, "ifm_cols": 73, "offset_h": -2, "stride_h": 3, "dilation_h": 2,
         "kernel_h": 2, "out_rows": 3, "out_cols": 3, "offset_w": -1},
    ):  # fmt: skip
        assert rig.send(PLAIN | change) is Error.NONE, change
        await rig.finish()
        await rig.check(0)


ERRORS = {
    "ifm base": {"ifm_base": CONFIG.ifm_depth},
    "ifm base beyond all": {"ifm_base": 65535},
    "last pixel": {"ifm_base": CONFIG.ifm_depth - 29},
    "second block": {"ifm_plane": CONFIG.ifm_depth, "blocks": 2},
    "block beyond 2**16": {"ifm_plane": 65533, "blocks": 2},
    "blocks far beyond, then around": {"ifm_plane": 32768, "blocks": 5, "ifm_base": 65535,
                                       "offset_h": -4, "out_rows": 5},
    "row": {"ifm_rows": 4095, "ifm_cols": 4095, "stride_h": 255},
    "row around 2**16": {"ifm_base": 0, "ifm_rows": 4095, "ifm_cols": 4095, "stride_h": 16,
                         "offset_h": 4080},
    "weights": {"wgt_base": CONFIG.wgt_depth},
    "weights beyond all": {"wgt_base": 65535},
    "last weight": {"wgt_base": CONFIG.wgt_depth - CONFIG.K + 1},
    "weights of a later pass": {"wgt_base": CONFIG.wgt_depth - 2 * CONFIG.K, "kernel_w": 3},
    "one pixel too many": {"out_rows": CONFIG.acc_depth + 1, "out_cols": 1, "stride_h": 0},
    "far too many": {"out_rows": 4095, "out_cols": 4095, "stride_h": 0, "stride_w": 0},
    "on the last pixel": {"out_rows": 1, "out_cols": 1, "ifm_base": CONFIG.ifm_depth},
}  # fmt: skip


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(follow=[False, True])
async def errors(dut, follow):
    """Each error, alone and with a good instruction right behind it, which must be exact."""
    rig = await Rig(dut, f"errors {follow}").start()
    for name, change in ERRORS.items():
        before = len(rig.sent)
        assert rig.send(PLAIN | change) is Error.BUFFER, name
        if follow:
            # On the same bank, which the other instruction may have half filled.
            rig.send(PLAIN | {"kernel_w": 2, "wgt_base": 2 * CONFIG.K, "acc_bank": 0})
        await rig.finish()
        # Early: at most the pixels up to the first access outside.
        pixels = min(change.get("out_rows", 5) * change.get("out_cols", 6), CONFIG.acc_depth)
        passes = change.get("blocks", 1) * change.get("kernel_w", 1)
        limit = TIMING.latency(PLAIN | {"out_rows": 1, "out_cols": pixels, "blocks": passes}) + 8
        assert rig.done[before] - rig.accepted[before] <= limit, name
        if follow:
            await rig.check(0, rig.acc[0][:30], text=name)
        await rig.check(1, text=name)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def stops(dut):
    """``stop`` at any time: every accepted instruction is done soon, nothing more is accepted."""
    rig = await Rig(dut, "stop").start()
    limit = TIMING.drain + IN_FLIGHT + 6
    for trial in range(20):
        long = PLAIN | {"kernel_h": 3, "kernel_w": 3, "offset_h": -1, "acc_bank": trial % 2}
        count = rig.rng.randint(0, 3)
        accepted, done = len(rig.accepted), len(rig.done)
        for _ in range(count):
            rig.unit.send(long)
        await ClockCycles(dut.clk, rig.rng.randint(1, 60))
        rig.unit.stop.value = 1
        await ClockCycles(dut.clk, limit)
        taken = len(rig.accepted) - accepted
        assert len(rig.done) - done == taken <= count
        await ClockCycles(dut.clk, 3 * limit)
        assert len(rig.accepted) - accepted == taken and len(rig.done) - done == taken
        rig.unit.stop.value = 0
        # What was still offered runs afterwards; then an instruction that is compared.
        if count:
            await rig.unit.wait_done(done + count)
        assert rig.unit.errors[done:] == [Error.NONE] * count
        array_golden(CONFIG, PLAIN, rig.ifm, rig.wgt, rig.acc)
        rig.unit.send(PLAIN)
        await rig.unit.wait_done(done + count + 1)
        await rig.check(0, rig.acc[0][:30], text=f"trial {trial}")


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reset_in_the_middle(dut):
    """After a reset nothing is left of the instructions that were running."""
    rig = await Rig(dut, "reset").start()
    for wait in (1, 7, 14, 25, 40):
        for _ in range(1 + wait % 2):
            rig.unit.send(PLAIN | {"kernel_h": 3, "kernel_w": 3})
        await rig.unit.driver.drain()
        await ClockCycles(dut.clk, wait)
        dut.rst.value = 1
        await ClockCycles(dut.clk, 2)
        dut.rst.value = 0
        rig.unit.driver.sent = dones = len(rig.unit.errors)
        await ClockCycles(dut.clk, 2 * TIMING.drain)
        assert len(rig.unit.errors) == dones
        array_golden(CONFIG, PLAIN, rig.ifm, rig.wgt, rig.acc)
        rig.unit.send(PLAIN)
        await rig.unit.wait_done(dones + 1)
        await rig.check(0, rig.acc[0][:30], text=f"after {wait} cycles")
