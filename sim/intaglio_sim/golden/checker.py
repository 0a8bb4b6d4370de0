"""The static checker: a program that passes cannot deadlock, overflow a token counter or race.

An instruction happens before another when the order within its unit and the tokens say so. The n-th
token taken from a counter can only be taken after the n-th was given, in every execution; hence
vector clocks over the four units, found in one simulated execution, hold for all of them. What the
queues order besides is not counted: a program must not depend on ``queue_depth``.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Instruction, Unit
from intaglio.spec.program import Program
from intaglio_sim.golden import places
from intaglio_sim.golden.machine import MachineError, check_fields

__all__ = ["Report", "check_instructions", "check_program"]

#: Findings of one kind that are reported; the rest is counted.
_MOST = 20


@dataclass
class Report:
    """What the checker found; ``problems`` has one line for each, and is empty for a good program.

    ``instructions``: checked, ``end`` included. ``accesses``: (instruction, buffer) pairs compared.
    """

    problems: list[str] = field(default_factory=list)
    instructions: int = 0
    accesses: int = 0

    @property
    def ok(self) -> bool:
        """Value of "nothing was found"."""
        return not self.problems

    def __str__(self) -> str:
        if self.ok:
            return f"{self.instructions} instructions, {self.accesses} accesses: no problem"
        return "\n".join(self.problems)


@dataclass(frozen=True)
class _Step:
    index: int
    instruction: Instruction
    fields: Mapping[str, int]


class _Counter:
    """Tokens from one unit to another: the clock that each brings along."""

    def __init__(self) -> None:
        self.clocks: deque[np.ndarray] = deque()
        self.given = 0
        self.taken_by: list[int] = [0]  # after n instructions of the taker

    def take(self) -> np.ndarray:
        return self.clocks.popleft()


def check_program(program: Program) -> Report:
    """Return what is wrong with ``program``; see :func:`check_instructions`."""
    return check_instructions(
        program.config,
        program.instructions,
        memory_bytes=program.memory_bytes,
        program_base=program.program_base,
    )


def check_instructions(
    config: AcceleratorConfig,
    instructions: np.ndarray,
    *,
    memory_bytes: int,
    program_base: int | None = None,
) -> Report:
    """Return what is wrong with a program of 64-byte ``instructions``.

    1. every instruction decodes, its fields are in range and its places inside of buffers and
       memory; the last one, and no other, is ``end``;
    2. it reaches ``end`` with all queues empty, whatever the speed of the units;
    3. no token counter can exceed TOKEN_MAX; all tokens given are taken (a warning sign of a wrong
       scheme, so it counts as a problem);
    4. two instructions on different units, one of which writes a place of a buffer or of the memory
       that the other touches, are ordered by tokens;
    5. no place of a buffer is read before something has written it;
    6. nothing is stored into the program, when ``program_base`` is given;
    7. what accumulates in the vector unit follows what it goes on with.
    """
    report = Report()
    steps = _decode(instructions, report)
    report.instructions = len(steps)
    if report.problems:
        return report
    _check_sequences(steps, report)
    _check_places(config, steps, memory_bytes, program_base, report)
    if report.problems:
        return report
    _Simulation(config, steps, memory_bytes, report).run()
    return report


def _add(report: Report, found: list[str], what: str) -> None:
    report.problems += found[:_MOST]
    if len(found) > _MOST:
        report.problems.append(f"... and {len(found) - _MOST} more {what}")


def _decode(instructions: np.ndarray, report: Report) -> list[_Step]:
    data = np.ascontiguousarray(instructions, np.uint8)
    if len(data) == 0 or len(data) % isa.INSTRUCTION_BYTES:
        report.problems.append(
            f"a program has a positive multiple of {isa.INSTRUCTION_BYTES} bytes, not {len(data)}"
        )
        return []
    steps, found = [], []
    count = len(data) // isa.INSTRUCTION_BYTES
    for index in range(count):
        word = data[index * isa.INSTRUCTION_BYTES : (index + 1) * isa.INSTRUCTION_BYTES]
        try:
            instruction, fields = isa.decode(word)
            check_fields(instruction, fields)
        except (ValueError, MachineError) as error:
            found.append(f"instruction {index}: {error}")
            continue
        if (instruction.unit is None) != (index == count - 1):
            found.append(
                f"instruction {index}: "
                + ("'end' before the last" if instruction.unit is None else "the last is no 'end'")
            )
        steps.append(_Step(index, instruction, fields))
    _add(report, found, "bad instructions")
    return steps


def _check_sequences(steps: list[_Step], report: Report) -> None:
    """Note ``accumulate`` of a vector instruction with nothing before it to go on with."""

    def single(f: Mapping[str, int]) -> bool:
        pools = f["function"] in (isa.Function.MAX, isa.Function.SUM)
        return pools and f["chunks"] == f["out_rows"] == f["out_cols"] == 1

    found = []
    before: Mapping[str, int] | None = None
    for step in steps:
        if step.instruction.unit != Unit.VECTOR:
            continue
        f = step.fields
        if f["accumulate"] and not (
            before is not None
            and single(before)
            and single(f)
            and before["function"] == f["function"]
        ):
            found.append(f"instruction {step.index} (vector) accumulates on nothing")
        before = f
    _add(report, found, "sums without a beginning")


def _check_places(
    config: AcceleratorConfig,
    steps: list[_Step],
    memory_bytes: int,
    program_base: int | None,
    report: Report,
) -> None:
    limits = {**places.depths(config), "memory": memory_bytes // config.R}
    program: tuple[int, int] | None = None
    if program_base is not None:
        end = program_base + len(steps) * isa.INSTRUCTION_BYTES
        program = program_base // config.R, -(-end // config.R)
    found = []
    for step in steps:
        for access in places.accesses(config, step.instruction, step.fields):
            if not access.places.size:
                continue
            low, high = int(access.places[0]), int(access.places[-1])
            if low < 0 or high >= limits[access.space]:
                found.append(
                    f"instruction {step.index} ({step.instruction.name}): {access.space} "
                    f"[{low}, {high}] is outside of [0, {limits[access.space]})"
                )
            elif program and access.space == "memory" and access.write:
                inside = (access.places >= program[0]) & (access.places < program[1])
                if inside.any():
                    found.append(
                        f"instruction {step.index} (store) writes into the program, at byte "
                        f"{int(access.places[inside][0]) * config.R}"
                    )
    _add(report, found, "accesses outside")


class _Simulation:
    """One execution with vector clocks: entry v of a clock counts the instructions of unit v that
    have finished before.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        steps: list[_Step],
        memory_bytes: int,
        report: Report,
    ) -> None:
        self.config = config
        self.steps = steps
        self.report = report
        units = len(isa.UNITS)
        self.counters = {(a, b): _Counter() for a in isa.UNITS for b in isa.UNITS if a != b}
        self.clocks = np.zeros((units, units), np.int64)  # of the last instruction of each unit
        self.done: list[list[int]] = [[] for _ in isa.UNITS]  # their indices
        limits = {**places.depths(config), "memory": memory_bytes // config.R}
        # Number (from 1) of the unit's last instruction that wrote or read a place; 0: none.
        self.writes = {name: np.zeros((units, size), np.int32) for name, size in limits.items()}
        self.reads = {name: np.zeros((units, size), np.int32) for name, size in limits.items()}
        self.races: list[str] = []
        self.unwritten: list[str] = []
        self.overflows: list[str] = []
        #: For each unit, the indices of its instructions in the program.
        self.program_order = {
            unit: [step.index for step in steps if step.instruction.unit == unit]
            for unit in isa.UNITS
        }

    def run(self) -> None:
        queues: dict[Unit, deque[_Step]] = {unit: deque() for unit in isa.UNITS}
        position = 0
        while True:
            progress = False
            step = self.steps[position]
            unit = step.instruction.unit
            if unit is not None and len(queues[unit]) < self.config.queue_depth:
                queues[unit].append(step)
                position, progress = position + 1, True
            for owner, queue in queues.items():
                if queue and self._start(owner, queue[0]):
                    queue.popleft()
                    progress = True
            waiting = {owner: queue[0] for owner, queue in queues.items() if queue}
            if not progress and unit is None and not waiting:
                break
            if not progress:
                self._deadlock(waiting, None if unit is None else step)
                break
        report = self.report
        _add(report, self.races, "races")
        _add(report, self.unwritten, "reads of unwritten places")
        _add(report, self.overflows, "token overflows")
        if not report.problems:
            for (source, target), counter in self.counters.items():
                if counter.clocks:
                    report.problems.append(
                        f"{len(counter.clocks)} tokens from {source.name.lower()} to "
                        f"{target.name.lower()} are never taken"
                    )

    def _deadlock(self, waiting: Mapping[Unit, _Step], step: _Step | None) -> None:
        heads = []
        for unit, head in waiting.items():
            missing = [
                source.name.lower()
                for source in isa.UNITS
                if head.fields["wait"] >> source & 1 and not self.counters[source, unit].clocks
            ]
            heads.append(
                f"instruction {head.index} ({unit.name.lower()}) waits for {', '.join(missing)}"
            )
        if step is not None:
            heads.append(f"instruction {step.index} finds a full queue")
        self.report.problems.append(f"deadlock: {'; '.join(heads)}")

    def _start(self, unit: Unit, step: _Step) -> bool:
        sources = [source for source in isa.UNITS if step.fields["wait"] >> source & 1]
        if not all(self.counters[source, unit].clocks for source in sources):
            return False
        clock = self.clocks[unit].copy()
        for source in sources:
            clock = np.maximum(clock, self.counters[source, unit].take())
        number = len(self.done[unit]) + 1
        for source in isa.UNITS:
            if source != unit:
                taken = self.counters[source, unit].taken_by
                taken.append(taken[-1] + (source in sources))
        for access in places.accesses(self.config, step.instruction, step.fields):
            self._access(unit, step, number, clock, access)
        clock[unit] = number
        self.clocks[unit] = clock
        self.done[unit].append(step.index)
        for target in isa.UNITS:
            if step.fields["signal"] >> target & 1:
                self._give(unit, target, step, clock)
        return True

    def _give(self, unit: Unit, target: Unit, step: _Step, clock: np.ndarray) -> None:
        counter = self.counters[unit, target]
        counter.given += 1
        counter.clocks.append(clock)
        # Tokens that must have been taken by now: by what happened before, and by what cannot be in
        # the queue any more, because this instruction has been put into one after it.
        before = int(clock[target])
        earlier = int(np.searchsorted(self.program_order[target], step.index))
        before = max(before, earlier - self.config.queue_depth)
        taken = counter.taken_by[min(before, len(counter.taken_by) - 1)]
        if counter.given - taken > isa.TOKEN_MAX:
            self.overflows.append(
                f"instruction {step.index} can be number {counter.given - taken} of the tokens "
                f"from {unit.name.lower()} to {target.name.lower()}, at most {isa.TOKEN_MAX}"
            )

    def _access(
        self, unit: Unit, step: _Step, number: int, clock: np.ndarray, access: places.Access
    ) -> None:
        self.report.accesses += 1
        where = access.places
        writes, reads = self.writes[access.space], self.reads[access.space]
        for other in isa.UNITS:
            if other == unit:
                continue
            for kind, table in (("write", writes), ("read", reads)):
                if kind == "read" and not access.write:
                    continue
                numbers = table[other, where]
                late = np.flatnonzero(numbers > clock[other])
                if late.size:
                    index = self.done[other][int(numbers[late[0]]) - 1]
                    place = int(where[late[0]])
                    mine = "write" if access.write else "read"
                    self.races.append(
                        f"race: the {mine} of {access.space}[{place}] by instruction {step.index} "
                        f"({unit.name.lower()}) and the {kind} by instruction {index} "
                        f"({other.name.lower()}) are not ordered"
                    )
        if access.write:
            writes[unit, where] = number
        else:
            if access.space != "memory":
                never = np.flatnonzero(~writes[:, where].any(0))
                if never.size:
                    self.unwritten.append(
                        f"instruction {step.index} ({step.instruction.name}) reads "
                        f"{access.space}[{int(where[never[0]])}], which nothing has written"
                    )
            reads[unit, where] = number
