"""Components with few registers do in every cycle what the others do: the same benches."""

import random
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from intaglio.spec import isa
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw.array import ArrayUnit
from intaglio_hw.counters import CounterBank
from intaglio_hw.csr import CsrBank
from intaglio_hw.load import LoadUnit
from intaglio_hw.primitives import DelayLine
from intaglio_hw.queues import HeadQueue
from intaglio_hw.requantizer import Requantizer
from intaglio_hw.sequencer import Sequencer
from intaglio_hw.store import StoreUnit
from intaglio_hw.top import Accelerator
from intaglio_hw.vector import VectorUnit
from intaglio_sim.held import with_register
from intaglio_sim.runner import config_environment, run_bench, run_verilog, to_verilog

SIMULATORS = ["icarus", "verilator"]
SHORT = AcceleratorConfig(name="short-32x4", R=32, K=4, queue_depth=2, burst_beats=1)


def units(config: AcceleratorConfig) -> dict:
    """Return what makes each lean unit, with the register of its port."""
    return {
        "load": lambda: with_register(LoadUnit(config=config, lean=True), unit=isa.LOAD),
        "store": lambda: with_register(StoreUnit(config=config, lean=True), unit=isa.STORE),
        "array": lambda: with_register(ArrayUnit(config=config, lean=True), unit=isa.ARRAY),
        "vector": lambda: with_register(VectorUnit(config=config, lean=True), unit=isa.VECTOR),
        "sequencer": lambda: with_register(
            Sequencer(config=config, lean=True),
            load=isa.LOAD,
            array=isa.ARRAY,
            vector=isa.VECTOR,
            store=isa.STORE,
        ),
        "csr": lambda: CsrBank(config=config, lean=True),
    }


CASES = {
    "load": ("verilator", "load", CONFIGS["mini-8x8"], False),
    "load-16": ("verilator", "load", CONFIGS["wide-16x8"], True),
    "store": ("verilator", "store", CONFIGS["mini-8x8"], False),
    "array": ("verilator", "array", CONFIGS["narrow-8x4"], False),
    "array-icarus": ("icarus", "array", CONFIGS["narrow-8x4"], True),
    "vector": ("verilator", "vector", CONFIGS["mini-8x8"], False),
    "vector-16": ("verilator", "vector", CONFIGS["wide-16x8"], True),
    "sequencer": ("verilator", "sequencer", CONFIGS["mini-8x8"], False),
    "sequencer-32": ("icarus", "sequencer", SHORT, False),
    "csr": ("icarus", "csr", CONFIGS["narrow-8x4"], False),
}


@pytest.mark.parametrize(
    ("simulator", "name", "config"),
    [
        pytest.param(*case, id=label, marks=pytest.mark.slow if slow else ())
        for label, (*case, slow) in CASES.items()
    ],
)
def test_a_lean_one(simulator, name, config):
    run_bench(
        units(config)[name](), f"bench_{name}", simulator=simulator, config=config, timeout_s=840
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_counters(simulator):
    result = run_bench(CounterBank(), bench="bench_counters", simulator=simulator)
    assert len(result.tests) == 4


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_requantizer(simulator, lanes):
    run_bench(
        Requantizer(lanes=lanes, lean=True),
        "bench_requantizer",
        simulator=simulator,
        env={"LANES": lanes},
    )


@pytest.mark.parametrize("simulator", ["verilator", pytest.param("icarus", marks=pytest.mark.slow)])
def test_accelerator(simulator, tmp_path):
    config = CONFIGS["small-8x4"]
    source = tmp_path / "accelerator.v"
    source.write_text(to_verilog(Accelerator(config=config, lean=True), name="accelerator"))
    run_verilog(
        sources=[source],
        toplevel="accelerator",
        bench="bench_accelerator",
        bench_dir=Path(__file__).parents[1] / "rtl",
        simulator=simulator,
        label=f"accelerator-lean-{config.name}",
        env=config_environment(config),
        timeout_s=800,
    )


@pytest.mark.parametrize("stages", [2, 4, 5, 16, 17])
def test_delay_line(stages):
    rng = random.Random(stages)
    line = DelayLine(width=9, stages=stages)
    sim = Simulator(line)
    sim.add_clock(1e-6)
    values = [rng.getrandbits(9) for _ in range(100)]

    async def bench(ctx):
        for cycle, value in enumerate(values):
            ctx.set(line.i, value)
            if cycle >= stages:
                assert ctx.get(line.o) == values[cycle - stages]
            await ctx.tick()

    sim.add_testbench(bench)
    sim.run()


def test_a_delay_line_of_one_stage_is_refused():
    with pytest.raises(ValueError, match="stages must be at least 2, not 1"):
        DelayLine(width=8, stages=1)


@pytest.mark.parametrize("held", [[40], [5, 64, 1, 9], [64] * 4, [9] * 5 + [3]])
@pytest.mark.parametrize("busy", [0.2, 0.9])
def test_held_parts_are_a_register_behind_the_head(held, busy):
    """Of entries that come part by part, the row at the write pointer before ``push``."""
    rng = random.Random(f"{held} {busy}")
    width = sum(held) + 12
    m = Module()
    m.submodules.plain = plain = HeadQueue(width=width, depth=4)
    m.submodules.lean = lean = HeadQueue(width=width, depth=4, held=held)
    register, valid = Signal(sum(held)), Signal()
    with m.If(lean.follow):
        m.d.sync += [register.eq(plain.head), valid.eq(plain.valid)]
    sim = Simulator(m)
    sim.add_clock(1e-6)
    checked = 0

    async def bench(ctx):
        nonlocal checked
        expected, parts, since_push, since_pop = [], 0, 0, 9
        for _ in range(40 * len(held) + 400):
            entry = rng.getrandbits(width)
            push = since_push > len(held) + 3 and ctx.get(lean.room)
            # The parts come in the cycles before; all else is noise.
            part = since_push - 3
            if push:
                pushed = parts | (entry >> sum(held) << sum(held))
                ctx.set(plain.entry, pushed)
            elif 0 <= part < len(held):
                parts = entry if not part else parts
                low = sum(held[:part])
                mask = (1 << held[part]) - 1 << low
                parts = (parts & ~mask | entry & mask) & (1 << sum(held)) - 1
            pop = bool(expected) and since_pop > 3 and ctx.get(lean.valid) and rng.random() < busy
            ctx.set(lean.entry, entry if not push else pushed & ~((1 << sum(held)) - 1))
            ctx.set(lean.keep, 1 << part if not push and 0 <= part < len(held) else 0)
            for queue in (plain, lean):
                ctx.set(queue.push, int(push))
                ctx.set(queue.pop, int(pop))
            ctx.set(lean.follow, int(rng.random() < 0.6))
            since_push, since_pop = 0 if push else since_push + 1, 0 if pop else since_pop + 1
            if push:
                expected.append(pushed)
            if pop:
                expected.pop(0)
            await ctx.tick()
            assert ctx.get(lean.valid) == ctx.get(plain.valid)
            assert ctx.get(lean.room) == ctx.get(plain.room)
            if ctx.get(plain.valid) and since_pop > 1:
                assert ctx.get(lean.head) == ctx.get(plain.head) >> sum(held)
                assert ctx.get(plain.head) == expected[0]
            if ctx.get(valid):
                assert ctx.get(lean.held) == ctx.get(register)
                checked += 1

    sim.add_testbench(bench)
    sim.run()
    assert checked > 100
