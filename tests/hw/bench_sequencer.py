"""Sequencer with dummy units: order, tokens, counts, every error, restart."""

import random
from collections import deque
from dataclasses import dataclass, field

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from intaglio.spec import isa
from intaglio.spec.isa import Error, Unit
from intaglio_hw.interfaces import IN_FLIGHT, instruction_layout
from intaglio_sim.bfm import MemoryReader, start_clock, unpack
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import bench_rng, integer

BASE = 0x4000_3000  # bus address of the memory
BYTES = 1 << 16
SIZE = isa.INSTRUCTION_BYTES
NAMES = {unit: unit.name.lower() for unit in isa.UNITS}
TABLE = {item.unit: item for item in isa.INSTRUCTIONS if item.unit is not None}


def instruction(rng: random.Random, unit: Unit, *, wait: int = 0, signal: int = 0) -> bytes:
    """Return an instruction of ``unit`` with random fields, a quarter of them edges."""
    fields = {f.name: integer(rng, f.low, f.high) for f in TABLE[unit].fields}
    return isa.encode(TABLE[unit].name, fields, wait=wait, signal=signal)


def end() -> bytes:
    return isa.encode("end")


def poke(data: bytes, offset: int, width: int, value: int) -> bytes:
    """Return ``data`` with ``width`` bits at ``offset`` replaced, unchecked."""
    mask = ((1 << width) - 1) << offset
    word = int.from_bytes(data, "little") & ~mask | (value << offset) & mask
    return word.to_bytes(SIZE, "little")


def legal_program(rng: random.Random, count: int) -> list[bytes]:
    """Return ``count`` random instructions that wait only for tokens given before them, and end."""
    tokens = {(a, b): 0 for a in isa.UNITS for b in isa.UNITS if a != b}
    program = []
    for _ in range(count):
        unit = rng.choice(isa.UNITS)
        wait = signal = 0
        for other in isa.UNITS:
            if other == unit:
                continue
            if tokens[other, unit] and rng.random() < 0.7:
                tokens[other, unit] -= 1
                wait |= 1 << other
            if tokens[unit, other] < isa.TOKEN_MAX and rng.random() < 0.4:
                tokens[unit, other] += 1
                signal |= 1 << other
        program.append(instruction(rng, unit, wait=wait, signal=signal))
    return [*program, end()]


@dataclass
class Running:
    """An instruction that a dummy unit has accepted; ``left`` counts down to its done."""

    index: int
    signal: int
    left: int
    error: Error


@dataclass
class Behaviour:
    """How the dummy units behave in a run."""

    duration: int = 12  # longest, in cycles
    ready: float = 0.6
    stubborn: int = 3  # longest time to answer a stop
    errors: dict[int, Error] = field(default_factory=dict)  # index -> error of that instruction
    durations: dict[int, int] = field(default_factory=dict)  # index -> cycles
    stuck: bool = False  # instructions last until the stop


class Machine:
    """The units, and a model that watches every cycle; an AssertionError ends the test."""

    def __init__(self, dut, rng: random.Random):
        self.dut, self.rng = dut, rng
        self.memory = np.zeros(BYTES, dtype=np.uint8)
        config = bench_config()
        self.reader = MemoryReader(
            dut, self.memory, beat=config.bus_bytes, prefix="fetch__", base=BASE, rng=rng
        )
        for name, value in (("memory_base", BASE), ("memory_bytes", BYTES), ("cycle_limit", 0)):
            getattr(dut, name).value = value
        for name in NAMES.values():
            getattr(dut, f"{name}__instruction__ready").value = 0
            getattr(dut, f"{name}__done").value = 0
            getattr(dut, f"{name}__error").value = 0
        dut.start.value = 0
        dut.stop.value = 0
        self.behaviour = Behaviour()
        self.load_program([])
        self.finishes = 0
        self.cycle = 0
        cocotb.start_soon(self._watch())

    def load_program(self, program: list[bytes], *, base: int = 0) -> None:
        """Put ``program`` into the memory and reset the model."""
        self.program = program
        for index, data in enumerate(program):
            at = base + SIZE * index
            self.memory[at : at + SIZE] = np.frombuffer(data, dtype=np.uint8)
        self.queues = {unit: deque() for unit in isa.UNITS}
        for index, data in enumerate(program):
            item = isa.opcode_of(data)
            if item is not None and item.unit is not None:
                self.queues[item.unit].append(index)
        self.tokens = {(a, b): 0 for a in isa.UNITS for b in isa.UNITS}
        # By what was done in the last cycles.
        self.given: deque[list[tuple[Unit, Unit]]] = deque([[], [], []])
        self.running = {unit: deque() for unit in isa.UNITS}
        self.started: list[int] = []
        self.done: list[int] = []
        self.counted = 0
        self.waited = 0

    def _accept(self, unit: Unit) -> None:
        """Check a start; the model's own tokens, order and fields are the oracle."""
        dut, name = self.dut, NAMES[unit]
        assert self.queues[unit], f"{name}: started something that is not in the program"
        index = self.queues[unit].popleft()
        item, fields = isa.decode(self.program[index])
        word = int(getattr(dut, f"{name}__instruction__payload").value)
        seen = unpack(instruction_layout(item), word)
        assert seen == {f.name: fields[f.name] for f in item.fields}, f"instruction {index}"
        for other in isa.UNITS:
            if fields["wait"] >> other & 1:
                assert self.tokens[other, unit], f"{index} started without a token of {other.name}"
                self.tokens[other, unit] -= 1
        assert len(self.running[unit]) < IN_FLIGHT, f"{name}: more than {IN_FLIGHT} in flight"
        self.started.append(index)
        how = self.behaviour
        self.running[unit].append(
            Running(
                index,
                fields["signal"],
                how.durations.get(index, self.rng.randint(1, how.duration)),
                how.errors.get(index, Error.NONE),
            )
        )

    def _check_waiting(self, unit: Unit) -> None:
        """Compare ``missing`` of a unit that was ``waiting`` with the model's tokens of then."""
        name = NAMES[unit]
        _, fields = isa.decode(self.program[self.queues[unit][0]])
        missing = sum(
            1 << other
            for other in isa.UNITS
            if fields["wait"] >> other & 1 and not self.tokens[other, unit]
        )
        assert missing and int(getattr(self.dut, f"missing_{name}").value) == missing
        self.waited += 1

    async def _watch(self) -> None:
        dut, rng, edge = self.dut, self.rng, RisingEdge(self.dut.clk)
        ready = dict.fromkeys(isa.UNITS, False)
        offered = dict.fromkeys(isa.UNITS, False)  # done is high in this cycle
        # What the sequencer tells is of the cycle before, or of the one before that.
        ran, started, ended = 0, {}, {}
        finished, finished_before = 0, 0
        driven: dict = {}

        def drive(handle, value: int) -> None:
            if driven.get(handle._name) != value:
                handle.value = driven[handle._name] = value

        while True:
            await edge
            self.cycle += 1
            if int(dut.rst.value):
                continue
            self.finishes += int(dut.finished.value)
            running, waiting = int(dut.running.value), int(dut.waiting.value)
            starts, dones = int(dut.trace_start.value), int(dut.trace_done.value)
            stops = [int(getattr(dut, f"{name}__stop").value) for name in NAMES.values()]
            assert len(set(stops)) == 1, "stop is for all units"
            stopped = bool(stops[0])
            finished_before *= not stopped  # what a stop cuts short does not count
            assert int(dut.finished_count.value) == finished_before
            self.counted += finished_before
            finished_before = finished
            assert running == ran, f"running {running:b}, not {ran:b}"
            assert starts == sum(1 << unit for unit in started), f"trace_start {starts:b}"
            assert dones == sum(1 << unit for unit in ended), f"trace_done {dones:b}"
            for unit, name in NAMES.items():
                for event, indices in (("start", started), ("done", ended)):
                    if unit in indices:
                        told = int(getattr(dut, f"trace_{event}_index_{name}").value)
                        assert told == indices[unit], f"{name}: index of {event}"
                if waiting >> unit & 1:
                    assert not ran >> unit & 1, f"{name} waits while it runs"
                    self._check_waiting(unit)
            ran = sum(1 << unit for unit in isa.UNITS if self.running[unit])
            started, ended = {}, {}
            for pair in self.given.popleft():
                self.tokens[pair] += 1
            for unit, name in NAMES.items():
                if ready[unit] and int(getattr(dut, f"{name}__instruction__valid").value):
                    assert not stopped, "started while stopped"
                    self._accept(unit)
                    started[unit] = self.started[-1]
            finished = 0
            given = []
            for unit in isa.UNITS:
                if offered[unit]:
                    item = self.running[unit].popleft()
                    ended[unit] = item.index
                    self.done.append(item.index)
                    finished += item.error == Error.NONE
                    given += [(unit, other) for other in isa.UNITS if item.signal >> other & 1]
            self.given.append(given)
            for unit, name in NAMES.items():
                offered[unit] = False
                if self.running[unit]:
                    item = self.running[unit][0]
                    if stopped:
                        item.left = min(item.left, rng.randint(0, self.behaviour.stubborn))
                        item.error = Error.NONE
                    if item.left <= 0:
                        offered[unit] = True
                    elif stopped or not self.behaviour.stuck:
                        item.left -= 1
                # Without done the error means nothing.
                error = self.running[unit][0].error if offered[unit] else rng.choice([0, 0, 0, 3])
                ready[unit] = (
                    not stopped
                    and len(self.running[unit]) < IN_FLIGHT
                    and rng.random() < self.behaviour.ready
                )
                drive(getattr(dut, f"{name}__done"), int(offered[unit]))
                drive(getattr(dut, f"{name}__error"), int(error))
                drive(getattr(dut, f"{name}__instruction__ready"), int(ready[unit]))

    async def run(
        self,
        program: list[bytes],
        behaviour: Behaviour | None = None,
        *,
        base: int = 0,
        length: int | None = None,
        limit: int = 0,
        stop_after: int | None = None,
        cycles: int = 20000,
        **registers: int,
    ) -> tuple[Error | None, int]:
        """Run ``program``; return (None, 0) for done, else the error and its index."""
        dut = self.dut
        self.behaviour = behaviour or Behaviour()
        self.load_program(program, base=base if base + SIZE * len(program) <= BYTES else 0)
        dut.program_base.value = base
        dut.program_length.value = len(program) if length is None else length
        dut.memory_base.value = registers.get("memory_base", BASE)
        dut.memory_bytes.value = registers.get("memory_bytes", BYTES)
        dut.cycle_limit.value = limit
        dut.start.value = 1
        finishes = self.finishes
        await RisingEdge(dut.clk)
        dut.start.value = 0
        await RisingEdge(dut.clk)
        begin = self.cycle
        while True:
            await RisingEdge(dut.clk)
            assert self.cycle - begin < cycles, "the machine hangs"
            if stop_after is not None:
                dut.stop.value = int(self.cycle - begin == stop_after + 1)
            if not int(dut.busy.value):
                break
        self.cycles = self.cycle - begin
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        assert self.finishes == finishes + 1, f"finished {self.finishes - finishes} times"
        assert not any(self.running.values()), "not busy, and a unit has not answered"
        assert sorted(self.started) == sorted(self.done)
        ok, failed = int(dut.done.value), int(dut.failed.value)
        assert ok + failed == 1, f"done {ok}, failed {failed}"
        error, index = Error(int(dut.error.value)), int(dut.error_instruction.value)
        if ok:
            assert error == Error.NONE and index == 0
            assert sorted(self.done) == list(range(len(self.started)))
            assert not any(self.queues.values()), "done, but not everything was started"
            assert self.counted == len(self.done)
            return None, 0
        return error, index


async def begin(dut, *, data_rate: float = 1.0, address_rate: float = 1.0, latency: int = 4):
    rng = bench_rng()
    machine = Machine(dut, rng)
    await start_clock(dut)
    machine.reader.latency = latency
    machine.reader._r.rate, machine.reader._ar.rate = data_rate, address_rate
    return machine, rng


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(feed=[1.0, 0.5], ready=[1.0, 0.3])
async def runs_programs(dut, feed, ready):
    machine, rng = await begin(dut, data_rate=feed, address_rate=feed, latency=rng_latency(feed))
    waited = 0
    for count, duration in ((0, 1), (1, 1), (30, 6), (50, 120)):
        base = SIZE * rng.randrange(100)
        behaviour = Behaviour(duration=duration, ready=ready)
        assert await machine.run(legal_program(rng, count), behaviour, base=base) == (None, 0)
        assert len(machine.done) == count
        waited += machine.waited
    assert waited, "nothing ever waited for a token"


def rng_latency(feed: float) -> int:
    return 1 if feed == 1.0 else 25


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def a_unit_gets_its_next_instruction_early(dut):
    """Tokens are there: the second is handed over while the first runs, the third is not."""
    machine, rng = await begin(dut)
    program = [*(instruction(rng, Unit.LOAD) for _ in range(3)), end()]
    behaviour = Behaviour(ready=1.0, durations={0: 300})
    task = cocotb.start_soon(machine.run(program, behaviour))
    for _ in range(250):
        await RisingEdge(dut.clk)
    assert machine.started == [0, 1] and machine.done == []
    assert await task == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def refuses_bad_instructions(dut):
    """Reserved bits, each bound of each field, tokens of its own; then a good program."""
    machine, rng = await begin(dut)
    cases = 0

    async def expect(bad: bytes, error: Error) -> None:
        nonlocal cases
        before = legal_program(rng, rng.randrange(3))[:-1]
        assert await machine.run([*before, bad, end()]) == (error, len(before))
        assert len(before) not in machine.started
        cases += 1

    for opcode in (0x00, 0x05, 0x0E, 0x10, 0x81, 0xFF):
        await expect(poke(end(), 0, 8, opcode), Error.OPCODE)
    for item in isa.INSTRUCTIONS:
        good = end() if item.unit is None else instruction(rng, item.unit)
        for bit in {item.width, 511, rng.randrange(item.width, 512)} if item.width < 512 else ():
            await expect(poke(good, bit, 1, 1), Error.OPCODE)
        if item.unit is None:
            for offset in (8, 9, 12, 15):
                await expect(poke(good, offset, 1, 1), Error.TOKEN)
        else:
            await expect(poke(good, 8 + item.unit, 1, 1), Error.TOKEN)
            await expect(poke(good, 12 + item.unit, 1, 1), Error.TOKEN)
        bounds = 0
        for f, offset in item.offsets().values():
            lowest = -(1 << (f.width - 1)) if f.signed else 0
            highest = (1 << (f.width - f.signed)) - 1
            for value in (f.low - 1, lowest, f.high + 1, highest):
                if lowest <= value <= highest and not f.low <= value <= f.high:
                    await expect(poke(good, offset, f.width, value), Error.FIELD)
                    bounds += 1
        assert bool(bounds) == bool(item.fields)
        # Two faults: the first in the order of the documentation.
        if item.unit is not None:
            both = poke(poke(good, 8 + item.unit, 1, 1), 511, 1, 1)
            if item.width < 512:
                await expect(both, Error.OPCODE)
    assert cases > 60
    assert await machine.run(legal_program(rng, 20)) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def accepts_every_bound(dut):
    machine, rng = await begin(dut)
    program = []
    for item in TABLE.values():
        for pick in ("low", "high"):
            fields = {f.name: getattr(f, pick) for f in item.fields}
            program.append(isa.encode(item.name, fields))
    assert await machine.run([*program, end()]) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reports_program_and_memory_errors(dut):
    machine, rng = await begin(dut)
    program = legal_program(rng, 10)
    bytes_ = bench_config().bus_bytes
    # The last bytes of the memory are good; what is beyond them is not.
    last = BYTES - SIZE * len(program)
    assert await machine.run(program, base=last) == (None, 0)
    assert await machine.run(program, memory_bytes=SIZE * len(program)) == (None, 0)
    no_end = program[:-1]
    for error, index, kwargs in (
        (Error.PROGRAM, 0, {"length": 0}),
        (Error.PROGRAM, 0, {"base": 32}),
        (Error.PROGRAM, 0, {"base": 1}),
        (Error.PROGRAM, 0, {"base": last + SIZE}),
        (Error.PROGRAM, 0, {"base": 0xFFFF_FFC0}),
        (Error.PROGRAM, 0, {"length": 0xFFFF_FFFF}),
        (Error.PROGRAM, 0, {"length": 0x0400_0001}),  # 64 of them are 64 modulo 2**32
        (Error.PROGRAM, 0, {"memory_bytes": SIZE * len(program) - bytes_}),
        (Error.MEMORY, 0, {"memory_base": BASE + 2048}),
        (Error.MEMORY, 0, {"memory_base": BASE + 1}),
        (Error.MEMORY, 0, {"memory_bytes": BYTES - 1}),
        (Error.MEMORY, 0, {"memory_base": 0xFFFF_F000}),
    ):
        bursts = len(machine.reader.bursts)
        assert await machine.run(program, **kwargs) == (error, index), kwargs
        assert len(machine.reader.bursts) == bursts and not machine.started, kwargs
    assert await machine.run(no_end) == (Error.PROGRAM, len(no_end))
    assert await machine.run(no_end[:1]) == (Error.PROGRAM, 1)
    assert await machine.run(program) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reports_bus_errors(dut):
    machine, rng = await begin(dut)
    beat = bench_config().bus_bytes
    for index in (0, 1, 7):
        for place in (0, SIZE - beat):
            machine.reader.bad_addresses = {BASE + SIZE * index + place}
            assert await machine.run(legal_program(rng, 12)) == (Error.BUS, index)
            # Behind the end nobody needs it, even if it has been fetched ahead.
            program = [*legal_program(rng, index)[:index], end(), *legal_program(rng, 3)]
            machine.reader.bad_addresses = {BASE + SIZE * (index + 1) + place}
            machine.load_program(program)
            assert await machine.run(program[: index + 1], length=len(program)) == (None, 0)
    machine.reader.bad_addresses = set()
    assert await machine.run(legal_program(rng, 12)) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reports_errors_of_units(dut):
    machine, rng = await begin(dut)
    for unit in isa.UNITS:
        for code in (Error.BUFFER, Error.MEMORY, Error.BUS):
            program = [*legal_program(rng, 10)[:-1], instruction(rng, unit), end()]
            behaviour = Behaviour(errors={10: code}, stubborn=40)
            assert await machine.run(program, behaviour) == (code, 10)
    # The first in time wins, wherever it stands in the program.
    program = [instruction(rng, Unit.LOAD), instruction(rng, Unit.STORE), end()]
    for first, second, winner in ((200, 100, 1), (100, 200, 0)):
        behaviour = Behaviour(
            ready=1.0,
            durations={0: first, 1: second},
            errors={0: Error.BUFFER, 1: Error.BUS},
        )
        expected = (behaviour.errors[winner], winner)
        assert await machine.run(program, behaviour) == expected
    assert await machine.run(legal_program(rng, 20)) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def counts_tokens_up_to_the_maximum(dut):
    machine, rng = await begin(dut)
    a, b = rng.sample(isa.UNITS, 2)
    give = [instruction(rng, a, signal=1 << b) for _ in range(isa.TOKEN_MAX)]
    quick = Behaviour(duration=1, ready=1.0)
    over = [*give, instruction(rng, a, signal=1 << b), end()]
    assert await machine.run(over, quick) == (Error.TOKEN, isa.TOKEN_MAX)
    take = [instruction(rng, b, wait=1 << a) for _ in range(isa.TOKEN_MAX)]
    # All are taken, and none of the last run is left.
    blocked = [*give, *take, instruction(rng, b, wait=1 << a), end()]
    assert await machine.run(blocked, quick) == (Error.DEADLOCK, len(blocked) - 2)
    assert await machine.run([instruction(rng, b, wait=1 << a), end()]) == (Error.DEADLOCK, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def detects_deadlocks(dut):
    machine, rng = await begin(dut)
    depth = bench_config().queue_depth
    for unit in isa.UNITS:
        other = rng.choice([item for item in isa.UNITS if item != unit])
        before = [instruction(rng, other) for _ in range(3)]
        blocked = instruction(rng, unit, wait=1 << other)
        # At the end.
        assert await machine.run([*before, blocked, end()]) == (Error.DEADLOCK, 3)
        # In front of a full queue: what would free it does not fit.
        free = instruction(rng, other, signal=1 << unit)
        fits = [*before, blocked, *(instruction(rng, unit) for _ in range(depth - 1)), free, end()]
        assert await machine.run(fits) == (None, 0)
        full = [*before, blocked, *(instruction(rng, unit) for _ in range(depth)), free, end()]
        assert await machine.run(full) == (Error.DEADLOCK, 3)
        # A long instruction that gives the token in the end is none.
        slow = [instruction(rng, other, signal=1 << unit), blocked, end()]
        assert await machine.run(slow, Behaviour(durations={0: 300})) == (None, 0)
    # Two that wait for each other.
    ring = [
        instruction(rng, Unit.ARRAY, wait=1 << Unit.VECTOR, signal=1 << Unit.VECTOR),
        instruction(rng, Unit.VECTOR, wait=1 << Unit.ARRAY, signal=1 << Unit.ARRAY),
        end(),
    ]
    assert await machine.run(ring) == (Error.DEADLOCK, 0)
    assert await machine.run(legal_program(rng, 20)) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def stops_at_the_limit_or_on_request(dut):
    machine, rng = await begin(dut)
    program = [instruction(rng, unit) for unit in isa.UNITS for _ in range(4)] + [end()]
    hang = Behaviour(stuck=True, duration=500, stubborn=20)
    for limit in (1, 2, 5, 150, 500):
        assert await machine.run(program, hang, limit=limit) == (Error.TIMEOUT, 0)
        assert limit <= machine.cycles <= limit + 100
    for after in (0, 1, 2, 3, 10, 100, 300):
        assert await machine.run(program, hang, stop_after=after) == (Error.NONE, 0)
        assert machine.cycles <= after + 100
    # A limit that is not reached does nothing; one that is just too low does.
    quick = Behaviour(duration=1, ready=1.0)
    assert await machine.run(program, quick) == (None, 0)
    needed = machine.cycles
    assert await machine.run(program, quick, limit=needed + 50) == (None, 0)
    assert await machine.run(program, quick, limit=needed - 50) == (Error.TIMEOUT, 0)
    assert await machine.run(program, quick) == (None, 0)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def survives_a_mix(dut):
    """Good and bad programs in random order, without a reset between them."""
    machine, rng = await begin(dut, data_rate=0.7, address_rate=0.7, latency=10)
    outcomes = set()
    for _ in range(25):
        kind = rng.choice(["good", "unit", "opcode", "deadlock", "stop"])
        program = legal_program(rng, rng.randrange(1, 25))
        count = len(program) - 1
        behaviour = Behaviour(duration=rng.choice([1, 10, 40]), stubborn=rng.choice([1, 40]))
        if kind == "good":
            expected, options = (None, 0), {}
        elif kind == "unit":
            behaviour.errors[at := rng.randrange(count)] = Error.BUFFER
            expected, options = (Error.BUFFER, at), {}
        elif kind == "opcode":
            program[at := rng.randrange(count)] = poke(end(), 0, 8, 0x77)
            expected, options = (Error.OPCODE, at), {}
        elif kind == "deadlock":
            blocked = instruction(rng, Unit.VECTOR, wait=1 << Unit.STORE)
            free = [data for data in program[:-1] if data[0] == isa.INSTRUCTIONS[1].opcode]
            free = [poke(data, 8, 8, 0) for data in free]
            program = [blocked, *free, end()]
            expected, options = (Error.DEADLOCK, 0), {}
        else:
            behaviour.stuck = True
            expected, options = (Error.NONE, 0), {"stop_after": rng.randrange(200)}
        assert await machine.run(program, behaviour, **options) == expected, kind
        outcomes.add(kind)
    assert len(outcomes) == 5
