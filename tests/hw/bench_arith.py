"""Hardware arithmetic against ``spec.arith``: every input of 8 bits, edge values above."""

import cocotb
import numpy as np
from cocotb.triggers import Timer

from intaglio.spec import arith
from intaglio_sim.stimulus import bench_rng, integer, integers

ALL = np.arange(-128, 128)


async def compare(dut, inputs: dict[str, object], output: str, expected: int) -> None:
    for name, value in inputs.items():
        port = getattr(dut, name)
        port.value = int(value) & ((1 << len(port)) - 1)
    await Timer(1, unit="ns")
    actual = getattr(dut, output).value.to_signed()
    assert actual == expected, f"{output} of {inputs}: {actual} for {expected}"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def round_shift_exhaustive(dut):
    for shift in range(16):
        for x in ALL:
            expected = arith.round_shift(int(x), shift)
            await compare(dut, {"x": x, "shift": shift}, "rounded", expected)
            if shift == 3:
                assert dut.rounded_3.value.to_signed() == expected
    for x in range(256):
        await compare(dut, {"u": x, "shift": 1}, "rounded_u", arith.round_shift(x, 1))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def saturate_exhaustive(dut):
    """Every value between bounds at and around the edges, the empty range among them."""
    bounds = [
        (low, high) for low in (-128, -127, -1, 0, 1, 127) for high in (-128, -2, 0, 126, 127)
    ]
    for low, high in bounds:
        for x in ALL:
            inputs = {"x": x, "low": low, "high": high}
            await compare(dut, inputs, "saturated", arith.saturate(int(x), low, high))
    for x in range(-512, 512):
        await compare(dut, {"wide": x}, "code", arith.saturate(x))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def wrap_exhaustive(dut):
    for x in ALL:
        await compare(dut, {"x": x}, "wrapped_5", arith.wrap(int(x), 5))
        assert dut.wrapped_11.value.to_signed() == arith.wrap(int(x), 11)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def requantize_edges(dut):
    rng = bench_rng()
    for acc, multiplier, bias in zip(
        integers(rng, 1000, bits=32), integers(rng, 1000, bits=16), integers(rng, 1000, bits=48),
        strict=True,
    ):  # fmt: skip
        inputs = {
            "acc": acc,
            "multiplier": multiplier,
            "bias": bias,
            "shift_48": integer(rng, 0, arith.SHIFT_MAX),
            "residual": integer(rng, -128, 127),
            "residual_shift": integer(rng, 0, arith.RESIDUAL_SHIFT_MAX),
            "low": integer(rng, -128, 127),
            "high": integer(rng, -128, 127),
        }
        expected = arith.requantize(
            acc, multiplier, bias, inputs["shift_48"], residual=inputs["residual"],
            residual_shift=inputs["residual_shift"], low=inputs["low"], high=inputs["high"],
        )  # fmt: skip
        await compare(dut, inputs, "requantized", expected)
