"""Clock and reset."""

from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Timer

__all__ = ["PERIOD_NS", "start_clock"]

PERIOD_NS = 10


async def start_clock(dut, *, reset_cycles: int = 4) -> None:
    """Start ``dut.clk`` and return in the first cycle after a reset of ``reset_cycles`` cycles.

    Inputs that nobody drives yet become zero. Drivers may be made before or after this call.
    """
    # At the very beginning constant outputs have no value yet either, and must not get one here.
    await Timer(1, unit="step")
    for handle in dut:
        if hasattr(handle, "value") and set(str(handle.value).lower()) == {"z"}:
            handle.value = 0
    Clock(dut.clk, PERIOD_NS, unit="ns").start(start_high=False)
    dut.rst.value = 1
    await ClockCycles(dut.clk, reset_cycles)
    dut.rst.value = 0
