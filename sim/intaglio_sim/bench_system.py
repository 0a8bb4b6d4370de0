"""The cocotb side of a whole program: runs inside the simulator, started by intaglio_sim.system.

Only the register accesses at the start and at the end come through here; clock and memory are in
verilog/testbench.v.
"""

import json
import os
from pathlib import Path

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge, ValueChange, with_timeout

from intaglio.spec.config import AcceleratorConfig
from intaglio_sim.driver import Driver, RegisterError

#: Environment variable with the path of the job, a JSON file; the answer is written beside it.
JOB_VARIABLE = "INTAGLIO_SYSTEM_JOB"
#: Longest register access, in simulated time: more than any answer takes.
ACCESS_NS = 10_000


class TestbenchBackend:
    """Registers and interrupt of testbench.v.

    Its memory is loaded and dumped by the bench itself.
    """

    def __init__(self, dut) -> None:
        self._dut = dut

    async def _access(self, write: int, address: int, value: int) -> int:
        dut = self._dut
        dut.command_write.value, dut.command_address.value = write, address
        dut.command_data.value = value
        dut.command.value = not int(dut.finished.value)
        await with_timeout(ValueChange(dut.finished), ACCESS_NS, "ns")
        if int(dut.response.value):
            kind = "write to" if write else "read of"
            raise RegisterError(f"{kind} register {address:#x}: response {int(dut.response.value)}")
        return 0 if write else int(dut.result.value)

    @resume
    async def read32(self, address: int) -> int:
        return await self._access(0, address, 0)

    @resume
    async def write32(self, address: int, value: int) -> None:
        await self._access(1, address, value)

    def read_memory(self, offset: int, length: int) -> bytes:
        raise NotImplementedError("the memory is dumped at the end")

    def write_memory(self, offset: int, data: bytes) -> None:
        raise NotImplementedError("the memory is loaded at the start")

    @resume
    async def wait_interrupt(self) -> bool:
        if not int(self._dut.event_seen.value):
            await RisingEdge(self._dut.event_seen)
        return bool(int(self._dut.interrupt.value))


@cocotb.test()
async def run_program(dut):
    job_path = Path(os.environ[JOB_VARIABLE])
    job = json.loads(job_path.read_text(encoding="utf-8"))
    dut.deadline.value = job["deadline"]
    driver = Driver(
        backend=TestbenchBackend(dut),
        config=AcceleratorConfig(**job["config"]),
        memory_base=job["memory_base"],
    )

    def program():
        if job["check"]:
            driver.check()
        driver.start(
            program_base=job["program_base"],
            program_length=job["program_length"],
            memory_bytes=job["memory_bytes"],
            cycle_limit=job["cycle_limit"],
        )
        return driver.wait()

    await with_timeout(RisingEdge(dut.clk), ACCESS_NS, "ns")
    outcome = await bridge(program)()
    dut.dump_now.value = 1
    await with_timeout(RisingEdge(dut.dumped), ACCESS_NS, "ns")
    assert not int(dut.violation.value), "the memory model saw a violation of its protocol"
    answer = {
        "finished": outcome.finished,
        "error": int(outcome.error),
        "error_instruction": outcome.error_instruction,
        "counters": dict(outcome.counters),
    }
    job_path.with_suffix(".answer.json").write_text(json.dumps(answer), encoding="utf-8")
