"""Runs a network on the accelerator in the SoC of litex_soc.py; scripts/litex runs this file.

    litex_run.py --soc SOC.V --accelerator ACCELERATOR.V --folder DIR

cocotb, in Verilator, is the host: it writes program, parameters and image through the SoC's bus
into the SDRAM, runs the driver, and reads the class map back, which must be that of the graph.
"""

import argparse
import json
import logging
import os
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.program import load_program
from intaglio_sim.driver import Driver, RegisterError
from intaglio_sim.runner import run_verilog

#: As in litex_soc.py.
ACCELERATOR, MAIN_RAM = 0x3000_0000, 0x4000_0000
CONFIG = CONFIGS["tiny-8x8"]
#: Variable with the folder that has the program, the input and, afterwards, the memory.
FOLDER_VARIABLE = "INTAGLIO_LITEX_FOLDER"
PERIOD_NS, RUN_MS = 20, 200


class SocBackend:
    """Registers and memory through the host's port on the SoC's bus."""

    def __init__(self, dut) -> None:
        self._dut = dut
        self._host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "host"), dut.sys_clk, dut.sys_rst)
        for side in (self._host.write_if, self._host.read_if):
            side.log.setLevel(logging.WARNING)

    @resume
    async def read32(self, address: int) -> int:
        answer = await self._host.read(ACCELERATOR + address, 4)
        if answer.resp != AxiResp.OKAY:
            raise RegisterError(f"read of register {address:#x}: {answer.resp!r}")
        return int.from_bytes(answer.data, "little")

    @resume
    async def write32(self, address: int, value: int) -> None:
        answer = await self._host.write(ACCELERATOR + address, value.to_bytes(4, "little"))
        if answer.resp != AxiResp.OKAY:
            raise RegisterError(f"write to register {address:#x}: {answer.resp!r}")

    @resume
    async def read_memory(self, offset: int, length: int) -> bytes:
        return bytes((await self._host.read(MAIN_RAM + offset, length)).data)

    @resume
    async def write_memory(self, offset: int, data: bytes) -> None:
        await self._host.write(MAIN_RAM + offset, data)

    @resume
    async def wait_interrupt(self) -> bool:
        if not int(self._dut.interrupt.value):
            await with_timeout(RisingEdge(self._dut.interrupt), RUN_MS, "ms")
        return True


@cocotb.test()
async def run_network(dut):
    folder = Path(os.environ[FOLDER_VARIABLE])
    program = load_program(folder / "program.npz")
    image = program.image(np.load(folder / "input.npy"))
    Clock(dut.sys_clk, PERIOD_NS, unit="ns").start(start_high=False)
    dut.sys_rst.value = 1
    backend = SocBackend(dut)
    await ClockCycles(dut.sys_clk, 10)
    dut.sys_rst.value = 0
    await ClockCycles(dut.sys_clk, 10)

    def host():
        driver = Driver(backend=backend, config=program.config, memory_base=MAIN_RAM)
        backend.write_memory(0, image.tobytes())
        outcome = driver.run(
            instructions=program.instructions.tobytes(),
            program_base=program.program_base,
            memory_bytes=program.memory_bytes,
            load=False,
        )
        outcome.check(program.layers)
        return outcome, backend.read_memory(0, program.memory_bytes)

    outcome, memory = await bridge(host)()
    (folder / "memory.bin").write_bytes(memory)
    (folder / "counters.json").write_text(json.dumps(dict(outcome.counters)), encoding="utf-8")


def main() -> None:
    from intaglio.cli.networks import random_network
    from intaglio.compile import compile_graph
    from intaglio.spec.program import read_value, save_program

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("soc", "accelerator", "folder"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    _, graph = random_network("deeplab-mini", (16, 24), "1/8", 5)
    program = compile_graph(graph, CONFIG)
    x = np.random.default_rng(1).integers(-128, 128, (3, 16, 24)).astype(np.int8)
    save_program(program, folder / "program.npz")
    np.save(folder / "input.npy", x)
    run_verilog(
        sources=[arguments.soc, arguments.accelerator],
        toplevel="soc",
        bench="litex_run",
        bench_dir=Path(__file__).parent,
        simulator="verilator",
        label="litex",
        env={FOLDER_VARIABLE: str(folder)},
        timeout_s=3600,
    )
    memory = np.fromfile(folder / "memory.bin", np.uint8)
    counters = json.loads((folder / "counters.json").read_text(encoding="utf-8"))
    compared = 0
    for name, expected in graph.evaluate(x[None]).items():
        found = read_value(memory, program.values[name], CONFIG.R)
        compared += found.size
        if not (found == expected[0]).all():
            raise IntaglioError(f"value {name} differs: {int((found != expected[0]).sum())} bytes")
    result = {"layers": len(program.values), "bytes_compared": compared, "mismatches": 0}
    print(json.dumps(result | {"cycles": counters["cycles"]}))


if __name__ == "__main__":
    main()
