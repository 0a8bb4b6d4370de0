"""Programs on the model of the sequential machine's engine, against the golden machine."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from intaglio.spec import isa, regs
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import INSTRUCTION_BYTES, Error
from intaglio_hw.sequential import microcode
from intaglio_hw.sequential.simulator import Engine
from intaglio_sim.golden import GoldenMachine, places
from intaglio_sim.golden.machine import MachineError

__all__ = ["BASE", "EngineRun", "SequentialMachine"]

#: Where the memory lies on the bus: not at zero, so that a forgotten base is seen.
BASE = 0x2000_3000
_BUFFERS = ("ifm", "wgt", "vec", "ofm", "prm")
#: Instructions that the idle loop is reached in, after a reset.
_RESET_INSTRUCTIONS = 1000


@dataclass(frozen=True)
class EngineRun:
    """What the registers say after a program, and how many instructions of the engine it took."""

    finished: bool
    error: Error
    error_instruction: int
    counters: Mapping[str, int]
    instructions: int


class SequentialMachine:
    """An :class:`Engine` with its microprogram; one program after the other."""

    def __init__(self, config: AcceleratorConfig, *, latency: int = 10, interval: int = 1) -> None:
        self.config = config
        self.engine = Engine(microcode.assemble(config), config, latency=latency, interval=interval)
        self.engine.run(lambda engine: engine.ready, instructions=_RESET_INSTRUCTIONS)

    def fill(self, byte: int) -> None:
        """Fill scratchpads and accumulators."""
        engine, word = self.engine, byte * 0x0101
        engine.sp[:] = [word] * len(engine.sp)
        value = word * 0x10001
        engine.acc[:] = [value - (value >> 31 << 32)] * len(engine.acc)

    def start(
        self,
        memory: np.ndarray,
        program_base: int,
        program_length: int,
        *,
        memory_bytes: int | None = None,
        memory_base: int = BASE,
        cycle_limit: int = 0,
    ) -> None:
        """Start the program at ``program_base`` of ``memory``, uint8, which it changes."""
        engine = self.engine
        engine.memory, engine.base = memory, memory_base
        registers = {
            "program_base": program_base,
            "program_length": program_length,
            "memory_base": memory_base,
            "memory_bytes": len(memory) if memory_bytes is None else memory_bytes,
            "cycle_limit": cycle_limit,
        }
        for name, value in registers.items():
            engine.put(name, value)
        for bursts in (engine.reads, engine.writes, engine.trace):
            bursts.clear()
        self._begun = engine.instructions
        engine.put("control", 1)

    def finish(self, *, instructions: int = 30_000_000) -> EngineRun:
        """Run until the program has ended; SimulationError after so many instructions."""
        engine = self.engine
        engine.run(lambda engine: not engine.busy, instructions=instructions)
        assert engine.done != engine.failed
        return EngineRun(
            engine.done,
            Error(engine.get("error")),
            engine.get("error_instruction"),
            {name: engine.get(name) for name, _ in regs.COUNTERS},
            engine.instructions - self._begun,
        )

    def compare(
        self,
        memory: np.ndarray,
        program_base: int,
        program_length: int,
        *,
        memory_bytes: int | None = None,
        fill: int = 0x5A,
    ) -> list[str]:
        """Run a program here and on the golden machine, and return what differs: memory, status,
        error, and the counters that the program alone decides.
        """
        expected, found = memory.copy(), memory.copy()
        counts: Counter[str] = Counter()

        def observe(index: int, instruction: isa.Instruction, f: Mapping[str, int]) -> None:
            counts["instructions"] += 1
            if instruction.name == "load":
                used = places.used_bytes(self.config, f)
                beats = places.beats_of_rows(self.config, places.row_addresses(f), used)
                counts["read_beats"] += len(beats)
            elif instruction.name == "store":
                counts["write_beats"] += f["planes"] * f["rows"] * f["vectors"]
            elif instruction.name == "array":
                passes = f["blocks"] * f["kernel_h"] * f["kernel_w"]
                counts["array_busy"] += f["out_rows"] * f["out_cols"] * passes

        golden = GoldenMachine(self.config, fill=fill).run(
            expected, program_base, program_length, memory_bytes, observer=observe
        )
        # An instruction that gives a token too many has run, but does not count.
        counts["instructions"] = golden.instructions_executed
        self.fill(fill)
        self.start(found, program_base, program_length, memory_bytes=memory_bytes)
        run = self.finish()
        differences = []
        outcome = (golden.error == Error.NONE, golden.error, golden.error_instruction)
        if outcome != (run.finished, run.error, run.error_instruction):
            differences.append(
                f"golden {golden.error.name} at {golden.error_instruction} ({golden.error_text}), "
                f"engine {run.error.name} at {run.error_instruction}, finished {run.finished}"
            )
        if not np.array_equal(expected, found):
            byte = int(np.flatnonzero(expected != found)[0])
            differences.append(f"byte {byte:#x}: golden {expected[byte]}, engine {found[byte]}")
        if golden.error == Error.NONE:
            counts["fetch_beats"] = (
                (counts["instructions"] + 1) * INSTRUCTION_BYTES // self.config.R
            )
            read = sum(beats for _, beats in self.engine.reads)
            written = sum(beats for _, beats in self.engine.writes)
            if (read, written) != (
                counts["read_beats"] + counts["fetch_beats"],
                counts["write_beats"],
            ):
                differences.append(f"{read} and {written} beats on the bus")
        else:
            counts = Counter({"instructions": counts["instructions"]})
        for name, count in counts.items():
            if run.counters[name] != count:
                differences.append(f"{name}: golden {count}, engine {run.counters[name]}")
        return differences

    def execute(self, golden: GoldenMachine, name: str, fields: Mapping[str, int]) -> list[str]:
        """Execute one instruction on the buffers and the memory of ``golden``, there and here, and
        return what differs. The program is put to the end of the memory.
        """
        engine = self.engine
        values = {key: value for key, value in fields.items() if key not in _HEADER}
        program = np.frombuffer(isa.encode(name, values) + isa.encode("end"), np.uint8)
        memory = golden.memory
        base = len(memory) - len(program)
        memory[base:] = program
        for buffer in _BUFFERS:
            words = np.ascontiguousarray(getattr(golden, buffer)).view("<u2").reshape(-1).tolist()
            first = 4 * engine.regions[buffer]
            engine.sp[first : first + len(words)] = words
        engine.acc[:] = golden.acc.reshape(-1).tolist()
        found = memory.copy()
        error = Error.NONE
        try:
            golden.execute(name, fields)
        except MachineError as caught:
            error = caught.code
        self.start(found, base, 2)
        run = self.finish()
        if run.error != error:
            return [f"golden {error.name}, engine {run.error.name}"]
        differences = [] if np.array_equal(found, memory) else ["memory"]
        if error in (Error.BUFFER, Error.FIELD) and name in ("array", "vector"):
            return differences  # parts may have been written
        for buffer in _BUFFERS:
            expected = np.ascontiguousarray(getattr(golden, buffer)).view(np.uint8).reshape(-1)
            different = np.flatnonzero(expected != engine.region(buffer).reshape(-1))
            if different.size:
                differences.append(f"{buffer}: {different.size} bytes, first {different[0]}")
        if golden.acc.reshape(-1).tolist() != engine.acc:
            differences.append("accumulators")
        return differences


_HEADER = frozenset(field.name for field in isa.HEADER)
