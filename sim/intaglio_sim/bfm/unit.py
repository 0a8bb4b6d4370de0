"""The sequencer's side of a unit: instructions in, ``done`` and ``error`` out."""

import random
from collections.abc import Mapping

import cocotb
from cocotb.triggers import Event, RisingEdge

from intaglio.spec import isa
from intaglio_hw.interfaces import IN_FLIGHT, instruction_layout
from intaglio_sim.bfm.streams import ProtocolError, StreamDriver

__all__ = ["UnitDriver"]


class UnitDriver:
    """Drives the ports of a ``UnitSignature``; ``prefix`` stands before their names.

    At most IN_FLIGHT instructions are accepted and not done; a ``done`` without an instruction
    fails the test. ``errors`` has the error code of each finished instruction, in order; ``cycles``
    the cycle of each ``done``.
    """

    def __init__(
        self,
        dut,
        instruction: isa.Instruction,
        *,
        prefix: str = "",
        rate: float = 1.0,
        rng: random.Random | None = None,
    ):
        self.instruction = instruction
        self.driver = StreamDriver(
            dut, f"{prefix}instruction", instruction_layout(instruction), rate=rate, rng=rng
        )
        self.errors: list[isa.Error] = []
        self.cycles: list[int] = []
        self._clk, self._rst = dut.clk, getattr(dut, "rst", None)
        self._done, self._error = getattr(dut, f"{prefix}done"), getattr(dut, f"{prefix}error")
        self.stop = getattr(dut, f"{prefix}stop")
        self.stop.value = 0
        self._changed = Event()
        cocotb.start_soon(self._run())

    def send(self, fields: Mapping[str, int]) -> None:
        """Queue an instruction.

        Fields that are not given have the default of :func:`isa.encode`.
        """
        data = isa.encode(self.instruction.name, fields)
        _, values = isa.decode(data)
        self.driver.send({f.name: values[f.name] for f in self.instruction.fields})

    async def wait_done(self, count: int) -> isa.Error:
        """Wait until ``count`` instructions are done in all.

        Return the error of the last of them.
        """
        while len(self.errors) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.errors[count - 1]

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        cycle = 0
        while True:
            await edge
            cycle += 1
            if self._rst is not None and int(self._rst.value):
                continue
            if int(self._done.value):
                self.errors.append(isa.Error(int(self._error.value)))
                self.cycles.append(cycle)
                self._changed.set()
            # The driver counts its transfer of this very edge before or after this task runs.
            in_flight = self.driver.sent - len(self.errors)
            if in_flight < 0:
                raise ProtocolError(f"done without an instruction in cycle {cycle}")
            if in_flight > IN_FLIGHT:
                raise ProtocolError(
                    f"{in_flight} instructions in flight in cycle {cycle}, more than {IN_FLIGHT}"
                )
