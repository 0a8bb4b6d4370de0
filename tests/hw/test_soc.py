"""Serial line, bridge, arbiter and memory of a board in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.soc import (
    AxiWriteArbiter,
    BlockMemory,
    BurstArbiter,
    SinglePortMemory,
    UartBridge,
    UartReceiver,
    UartTransmitter,
)
from intaglio_hw.soc.memory import bank_rows
from intaglio_hw.soc.uart import baud_divisor
from intaglio_sim.runner import run_bench

SIMULATORS = ["icarus", pytest.param("verilator", marks=pytest.mark.slow)]
CONFIG_NAMES = ["mini-8x8", pytest.param("wide-16x8", marks=pytest.mark.slow)]
#: As in bench_soc.py.
DIVISOR, GAP_CYCLES, MEMORY_BYTES, CLOCK_HZ = 7, 200, 3 * 4096, 12_345_678
MINI = CONFIGS["mini-8x8"]


def bench(component, simulator: str, tests: str, config=MINI) -> int:
    """Run the tests whose name begins with ``tests``; return how many there were."""
    result = run_bench(component, "bench_soc", simulator=simulator, config=config, tests=tests)
    return len(result.tests)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_uart(simulator):
    assert bench(UartReceiver(divisor=DIVISOR), simulator, "receiver_") == 4
    assert bench(UartTransmitter(divisor=DIVISOR), simulator, "transmitter_") == 2


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_write_arbiter(simulator):
    assert bench(AxiWriteArbiter(config=MINI), simulator, "arbiter_") == 4


@pytest.mark.parametrize("config", CONFIG_NAMES)
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_memory(simulator, config):
    memory = BlockMemory(config=CONFIGS[config], memory_bytes=MEMORY_BYTES)
    assert bench(memory, simulator, "memory_", CONFIGS[config]) == 2
    assert bench(memory, simulator, "blocks_", CONFIGS[config]) == 1


@pytest.mark.parametrize("config", CONFIG_NAMES)
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_single_port_memory(simulator, config):
    memory = SinglePortMemory(config=CONFIGS[config], memory_bytes=MEMORY_BYTES)
    assert bench(memory, simulator, "memory_", CONFIGS[config]) == 2
    assert bench(memory, simulator, "single_port_", CONFIGS[config]) == 1


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_burst_arbiter(simulator):
    """What the arbiter of writers does, and reads besides."""
    assert bench(BurstArbiter(config=MINI), simulator, "arbiter_") == 4
    assert bench(BurstArbiter(config=MINI), simulator, "bursts_") == 2


@pytest.mark.parametrize("config", CONFIG_NAMES)
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_bridge(simulator, config):
    bridge = UartBridge(
        config=CONFIGS[config],
        memory_bytes=MEMORY_BYTES,
        clock_hz=CLOCK_HZ,
        gap_cycles=GAP_CYCLES,
    )
    assert bench(bridge, simulator, "bridge_", CONFIGS[config]) == 9


def test_bank_rows():
    assert bank_rows(36864) == [16384, 16384, 4096]
    for rows in (512, 1536, 3 * 4096, 100 * 512):
        banks = bank_rows(rows)
        assert sum(banks) == rows and all(bank & (bank - 1) == 0 for bank in banks)
        first = 0
        for bank in banks:
            assert first % bank == 0
            first += bank


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="memory_bytes must be a multiple of 4096, not 4095"):
        BlockMemory(config=MINI, memory_bytes=4095)
    with pytest.raises(ValueError, match=r"memory_bytes must be at most 2\*\*32"):
        BlockMemory(config=MINI, memory_bytes=(1 << 32) + 4096)
    with pytest.raises(ValueError, match="memory_bytes must be at most 131072, not 135168"):
        SinglePortMemory(config=MINI, memory_bytes=33 * 4096)
    with pytest.raises(ValueError, match="divisor must be at least 4, not 3"):
        UartReceiver(divisor=3)
    with pytest.raises(ValueError, match="gap_cycles must be at least 1, not 0"):
        UartBridge(config=MINI, memory_bytes=4096, clock_hz=1, gap_cycles=0)


def test_baud_divisor():
    assert baud_divisor(75_000_000, 1_000_000) == 75
    assert baud_divisor(25_000_000, 115_200) == 217
    with pytest.raises(ValueError, match="baud must be at most clock / 4 = 6250000, not 7000000"):
        baud_divisor(25_000_000, 7_000_000)
    with pytest.raises(ValueError, match="baud 4500000 is 7.4 % away"):
        baud_divisor(25_000_000, 4_500_000)
