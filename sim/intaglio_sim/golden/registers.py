"""The register map in front of the golden machine: an accelerator for drivers, without hardware."""

import numpy as np

from intaglio.spec import regs
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error
from intaglio_sim.driver import RegisterError
from intaglio_sim.golden.machine import GoldenMachine

__all__ = ["GoldenBackend"]

_WORD = (1 << 32) - 1


class GoldenBackend:
    """Registers, memory and interrupt of an accelerator whose programs take no time.

    A ``Backend`` of :class:`~intaglio_sim.driver.Driver`. Of the counters only ``instructions``
    counts; ``stop`` has nothing to stop.

    Parameters
    ----------
    config
        The accelerator.
    memory_bytes
        Of the memory, at bus address 0.
    """

    def __init__(self, config: AcceleratorConfig, memory_bytes: int) -> None:
        self.config = config
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.values = {register.name: 0 for register in regs.REGISTERS}
        self.values |= {
            "identity": regs.IDENTITY,
            "version": regs.VERSION,
            "config": int(config.digest()[-8:], 16),
            "lanes": config.R | config.K << 8 | config.drain_lanes << 16,
        }
        self._by_address = {register.address: register for register in regs.REGISTERS}
        #: Programs that were started.
        self.runs = 0

    def _register(self, address: int) -> regs.Register:
        if address not in self._by_address:
            raise RegisterError(f"no register at {address:#x}")
        return self._by_address[address]

    def read32(self, address: int) -> int:
        """Return the register at ``address``; RegisterError outside of the map."""
        return self.values[self._register(address).name]

    def write32(self, address: int, value: int) -> None:
        """Write the register at ``address``; RegisterError when it is read only or not there."""
        register = self._register(address)
        mask = (1 << sum(field.width for field in register.fields)) - 1 or _WORD
        if register.access == "rw":
            self.values[register.name] = value & mask
        elif register.access == "w1c":
            self.values[register.name] &= ~value
        elif register.access == "w1":
            if value & 1:
                self._start()
        else:
            raise RegisterError(f"register {register.name} is read only")

    def _start(self) -> None:
        values = self.values
        base, size = values["memory_base"], values["memory_bytes"]
        result = GoldenMachine(self.config).run(
            self.memory[base:], values["program_base"], values["program_length"], size
        )
        failed = result.error != Error.NONE
        self.runs += 1
        values["status"] = 0b100 if failed else 0b010
        values["error"] = int(result.error)
        values["error_instruction"] = result.error_instruction if failed else 0
        values["interrupt_status"] |= 0b10 if failed else 0b01
        values["instructions"] = result.instructions_executed

    @property
    def interrupt(self) -> bool:
        """Value of the interrupt line."""
        return bool(self.values["interrupt_status"] & self.values["interrupt_enable"])

    def wait_interrupt(self) -> bool:
        """Return the interrupt line: nothing is ever on its way."""
        return self.interrupt

    def _bytes(self, offset: int, length: int) -> np.ndarray:
        base = self.values["memory_base"] + offset
        if not 0 <= base <= base + length <= len(self.memory):
            raise ValueError(f"{length} bytes at {base:#x} are outside of {len(self.memory):,}")
        return self.memory[base : base + length]

    def read_memory(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of memory from ``offset``, relative to ``memory_base``."""
        return self._bytes(offset, length).tobytes()

    def write_memory(self, offset: int, data: bytes) -> None:
        """Write ``data`` to memory at ``offset``, relative to ``memory_base``."""
        self._bytes(offset, len(data))[:] = np.frombuffer(data, np.uint8)
