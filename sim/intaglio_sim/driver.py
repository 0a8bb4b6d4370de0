"""Runs programs on the accelerator through its registers, in simulation or on a board."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from intaglio.spec import regs
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import INSTRUCTION_BYTES, Error

__all__ = ["Backend", "Driver", "MachineError", "Outcome", "RegisterError"]


class RegisterError(IntaglioError):
    """The accelerator refused a register access (SLVERR)."""


class MachineError(IntaglioError):
    """The machine stopped with ``error`` in the instruction with the index ``instruction``."""

    def __init__(self, error: Error, instruction: int, where: str = "") -> None:
        about = f" ({where})" if where else ""
        super().__init__(
            f"the accelerator stopped with {error.name} (error {int(error)}) at instruction "
            f"{instruction}{about}"
        )
        self.error, self.instruction = error, instruction


class Backend(Protocol):
    """How a driver reaches an accelerator: registers, memory, interrupt."""

    def read32(self, address: int) -> int:
        """Return the register at ``address``; RegisterError when it is refused."""

    def write32(self, address: int, value: int) -> None:
        """Write the register at ``address``; RegisterError when it is refused."""

    def read_memory(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of memory from ``offset``, relative to ``memory_base``."""

    def write_memory(self, offset: int, data: bytes) -> None:
        """Write ``data`` to memory at ``offset``, relative to ``memory_base``."""

    def wait_interrupt(self) -> bool:
        """Wait for the interrupt line; False when it did not come in time."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended.

    ``error`` is NONE and ``error_instruction`` without meaning when it reached ``end``;
    ``finished`` is then true. ``counters``: name -> value, as in ``regs.COUNTERS``.
    """

    finished: bool
    error: Error
    error_instruction: int
    counters: Mapping[str, int]

    def check(self, layers: tuple[str, ...] = ()) -> None:
        """Raise MachineError unless the program reached ``end``; ``layers`` names instructions."""
        if not self.finished:
            where = layers[self.error_instruction] if self.error_instruction < len(layers) else ""
            raise MachineError(self.error, self.error_instruction, where)


class Driver:
    """The host's side of the register map.

    Parameters
    ----------
    backend
        The way to registers and memory.
    config
        What the accelerator must be; :meth:`check` refuses another one.
    memory_base
        Bus address of memory offset 0, a multiple of 4096.
    """

    def __init__(
        self, *, backend: Backend, config: AcceleratorConfig, memory_base: int = 0
    ) -> None:
        if memory_base % 4096:
            raise ValueError(f"memory_base must be a multiple of 4096, not {memory_base:#x}")
        self.backend, self.config, self.memory_base = backend, config, memory_base

    def read(self, name: str) -> int:
        """Return the register ``name``."""
        return self.backend.read32(regs.register(name).address)

    def write(self, name: str, value: int) -> None:
        """Write the register ``name``."""
        self.backend.write32(regs.register(name).address, value)

    def fields(self, name: str) -> dict[str, int]:
        """Return the register ``name`` as field -> value."""
        word, result = self.read(name), {}
        for field in regs.register(name).fields:
            result[field.name] = word & ((1 << field.width) - 1)
            word >>= field.width
        return result

    def check(self) -> None:
        """Check that this is the accelerator that the program was compiled for.

        Raises
        ------
        IntaglioError
            Another device, an incompatible version, or another configuration.
        """
        identity = self.read("identity")
        if identity != regs.IDENTITY:
            raise IntaglioError(f"identity {identity:#010x}, expected {regs.IDENTITY:#010x}")
        version = self.fields("version")
        if version["major"] != regs.VERSION >> 16 or version["minor"] < regs.VERSION & 0xFFFF:
            raise IntaglioError(
                f"register map version {version['major']}.{version['minor']}, expected "
                f"{regs.VERSION >> 16}.{regs.VERSION & 0xFFFF}"
            )
        expected = int(self.config.digest()[-8:], 16)
        digest = self.read("config")
        if digest != expected:
            raise IntaglioError(
                f"the accelerator has configuration ...{digest:08x}, the program is for "
                f"{self.config.name}, ...{expected:08x}"
            )

    def start(
        self, *, program_base: int, program_length: int, memory_bytes: int, cycle_limit: int = 0
    ) -> None:
        """Start the program of ``program_length`` instructions at byte offset ``program_base``."""
        if self.fields("status")["busy"]:
            raise IntaglioError("the accelerator is busy")
        self.write("memory_base", self.memory_base)
        self.write("memory_bytes", memory_bytes)
        self.write("program_base", program_base)
        self.write("program_length", program_length)
        self.write("cycle_limit", cycle_limit)
        self.write("interrupt_status", 0b11)
        self.write("interrupt_enable", 0b11)
        self.write("control", 1)

    def wait(self) -> Outcome:
        """Wait for the interrupt and return how the program ended.

        Raises
        ------
        IntaglioError
            The interrupt did not come, or came while the machine is busy.
        """
        if not self.backend.wait_interrupt():
            raise IntaglioError("no interrupt: the accelerator did not finish in time")
        events = self.fields("interrupt_status")
        self.write("interrupt_status", 0b11)
        status = self.fields("status")
        if status["busy"] or status["done"] == status["failed"] or not any(events.values()):
            raise IntaglioError(f"interrupt {events} with status {status}")
        return Outcome(
            finished=bool(status["done"]),
            error=Error(self.fields("error")["code"]),
            error_instruction=self.read("error_instruction"),
            counters={name: self.read(name) for name, _ in regs.COUNTERS},
        )

    def run(
        self,
        *,
        instructions: bytes,
        program_base: int,
        memory_bytes: int,
        cycle_limit: int = 0,
        load: bool = True,
    ) -> Outcome:
        """Run a program: write it to memory (unless ``load`` is false), start, wait."""
        self.check()
        if load:
            self.backend.write_memory(program_base, instructions)
        self.start(
            program_base=program_base,
            program_length=len(instructions) // INSTRUCTION_BYTES,
            memory_bytes=memory_bytes,
            cycle_limit=cycle_limit,
        )
        return self.wait()
