"""The cycle model: when each unit runs each instruction, without simulating a gate.

Fetching, dispatching, tokens, bursts and beats are followed event by event, with the latencies that
the components in :mod:`intaglio_hw` document; the durations of array and vector instructions come
from :mod:`intaglio.spec.timing` and :mod:`intaglio.spec.timing_vector`. It takes about a
microsecond per beat instead of milliseconds per cycle, and its error against the RTL is tested.

Not modelled: pauses of the memory at random, errors, programs that do not reach ``end``.
"""

import heapq
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Unit
from intaglio.spec.program import Program
from intaglio.spec.timing import ArraySchedule, ArrayTiming
from intaglio.spec.timing_vector import vector_cycles, vector_interval
from intaglio_hw.axi import BOUNDARY_BYTES, AxiReadArbiter, RowBursts
from intaglio_hw.interfaces import IN_FLIGHT, READ_LATENCY
from intaglio_hw.load import LoadUnit
from intaglio_hw.sequencer import Decoder, Fetch, UnitStage
from intaglio_hw.store import StoreUnit
from intaglio_hw.streams import Queue
from intaglio_sim.golden import places
from intaglio_sim.golden.checker import check_program

__all__ = ["CycleModel", "LayerCycles", "Span", "Timeline"]

#: Bursts on their way: of load, of store, and of both readers behind the arbiter (their default).
_OUTSTANDING = 8
#: From a done to its token at the other unit, and from a granted instruction to its offer.
_TOKEN = 1
_OFFER = UnitStage.LATENCY - _TOKEN
#: From the offset of a row to its hand-over, and from there to the first burst.
_ROW = 2
_BURST = RowBursts.LATENCY - _ROW
#: Between two bursts of a row.
_NEXT_BURST = 3
#: From the acceptance of a store to its first row, and from its last response to its done.
_STORE_ROW, _STORE_DONE = 2, 2
#: From a read of OFM to its beat.
_STORE_READ = READ_LATENCY + Queue.LATENCY
#: From the first busy cycle to the first request of the fetch unit, and from the last finished
#: instruction to the last busy cycle.
_START, _FINISH = 5, 2


@dataclass(frozen=True)
class Span:
    """An instruction: accepted by its unit in cycle ``start``, done in cycle ``end``.

    Cycles count from the first one in which the machine is busy. ``offered``: the first cycle in
    which it had its tokens and could have been accepted.
    """

    index: int
    unit: Unit
    start: int
    end: int
    offered: int
    layer: str = ""


@dataclass(frozen=True)
class LayerCycles:
    """What a layer costs.

    ``cycles``: from its first acceptance to its last done (layers overlap, so that these add up to
    more than the whole). ``share``: cycles that passed between the last done of the layers before
    and its own; these add up to the whole. ``array_busy``: vectors multiplied, padding included.
    ``utilization``: macs / (cycles * R * K). Bytes are of feature maps, weights and parameters, as
    moved on the bus.
    """

    name: str
    instructions: int
    cycles: int
    share: int
    macs: int
    array_busy: int
    utilization: float
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Timeline:
    """The result: ``counters`` has the names of :data:`intaglio.spec.regs.COUNTERS`."""

    config: AcceleratorConfig
    cycles: int
    spans: tuple[Span, ...]
    layers: tuple[LayerCycles, ...]
    counters: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Value of the multiplications of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def utilization(self) -> float:
        """Value of macs / (cycles * R * K)."""
        return self.macs / (self.cycles * self.config.macs_per_cycle)


# --------------------------------------------------------------------------------- event simulation


class _Gate:
    """Something to wait for; whoever waits checks again after each :meth:`open`."""

    def __init__(self) -> None:
        self.waiting: list[Generator] = []


_Process = Generator["int | _Gate", None, None]


class _Kernel:
    """Processes are generators that yield the cycle in which to go on, or a gate."""

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, cycle: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (max(cycle, self.now), self._order, action))

    def start(self, process: _Process) -> None:
        self.at(self.now, lambda: self._resume(process))

    def open(self, gate: _Gate) -> None:
        waiting, gate.waiting = gate.waiting, []
        for process in waiting:
            self._resume(process)

    def _resume(self, process: _Process) -> None:
        try:
            wish = next(process)
        except StopIteration:
            return
        if isinstance(wish, _Gate):
            wish.waiting.append(process)
        else:
            self.at(wish, lambda: self._resume(process))

    def run(self) -> None:
        while self._heap:
            self.now, _, action = heapq.heappop(self._heap)
            action()


@dataclass
class _Burst:
    """A read burst: ``consume`` takes (cycle in which a beat is offered) and returns the cycle in
    which it is taken; ``done`` is called with the last of those.
    """

    beats: int
    consume: Callable[[int], int]
    done: Callable[[int], None]
    granted: Callable[[int], None]


class _ReadBus:
    """Arbiter and memory: requests of fetch go before those of load, beats come in order."""

    def __init__(self, kernel: _Kernel, latency: int, interval: int) -> None:
        self.kernel, self.latency, self.interval = kernel, latency, interval
        self.pending: dict[str, _Burst] = {}
        self.outstanding = 0
        self.last_grant = -1
        self.scheduled = False
        # Of the last beats, in order of the bus: when it appeared and left the memory, when it was
        # taken by its reader.
        self.left, self.shown = -1, -1
        self.taken = self.taken_before = -1

    def request(self, owner: str, burst: _Burst) -> None:
        self.pending[owner] = burst
        self._try()

    def _try(self) -> None:
        if not self.pending or self.outstanding >= _OUTSTANDING:
            return
        if self.kernel.now <= self.last_grant:
            if not self.scheduled:
                self.scheduled = True
                self.kernel.at(self.last_grant + 1, self._again)
            return
        if not self.scheduled:
            # At the end of the cycle, when both have had the occasion to ask.
            self.scheduled = True
            self.kernel.at(self.kernel.now, self._again)

    def _again(self) -> None:
        self.scheduled = False
        if not self.pending or self.outstanding >= _OUTSTANDING:
            return
        owner = "fetch" if "fetch" in self.pending else "load"
        burst = self.pending.pop(owner)
        now = self.kernel.now
        self.last_grant = now
        self.outstanding += 1
        self._deliver(burst, now + AxiReadArbiter.LATENCY + self.latency)
        burst.granted(now)
        self._try()

    def _deliver(self, burst: _Burst, due: int) -> None:
        interval = self.interval
        left, shown = self.left, self.shown
        taken, before = self.taken, self.taken_before
        for _ in range(burst.beats):
            # The memory shows a beat when the one before has left, the arbiter has two places.
            shown = max(due, left + 1, shown + interval)
            left = max(shown, before + 1)
            before, taken = taken, burst.consume(max(left, taken) + AxiReadArbiter.LATENCY)
        self.left, self.shown, self.taken, self.taken_before = left, shown, taken, before
        burst.done(taken)
        self.kernel.at(taken + 1, self._release)

    def _release(self) -> None:
        self.outstanding -= 1
        self._try()


# ------------------------------------------------------------------------------------------- units


@dataclass(frozen=True)
class _Step:
    index: int
    instruction: isa.Instruction
    fields: Mapping[str, int]


@dataclass
class _Row:
    """A row of load: its beats and the steps in which the writing side uses them."""

    beats: int
    steps: int
    first: Sequence[int]  # step that first needs beat j
    last: Sequence[int]  # step that takes it
    final: bool
    prepared: int  # cycle in which its instruction was prepared
    info: int = 0  # cycle in which the writing side knows it
    next_beat: int = 0
    step: int = -1  # last step whose cycle is known
    cycle: int = 0  # and that cycle


def _row_steps(config: AcceleratorConfig, fields: Mapping[str, int], head: int) -> _Row:
    """Return the steps of a row whose first byte is byte ``head`` of its first beat."""
    R, vectors, step = config.R, fields["vectors"], fields["vector_step"]
    used = places.used_bytes(config, fields)
    beats = -(-(head + used) // R) if used else 0
    ahead = fields["lead"] - head
    skip = ahead < 0
    before = max(ahead, 0) // R
    shift = R - 1 - ahead % R
    # Beats passed before vector i; a skipped beat is a step of its own.
    passed = (shift + np.arange(vectors, dtype=np.int64) * step) // R + skip
    needs = passed - before
    if skip:
        needs = np.concatenate([[0], needs])
    first = np.searchsorted(needs, np.arange(beats))
    last = np.minimum(np.searchsorted(needs, np.arange(beats), "right") - 1, len(needs) - 1)
    last = np.maximum(last, first)
    return _Row(beats, len(needs), first.tolist(), last.tolist(), False, 0)


def _bursts(config: AcceleratorConfig, address: int, beats: int) -> list[int]:
    """Return the beats of each burst of a row that starts at byte ``address``."""
    page = BOUNDARY_BYTES // config.R
    at, sizes = address // config.R, []
    while beats:
        size = min(beats, config.burst_beats, page - at % page)
        sizes.append(size)
        at, beats = at + size, beats - size
    return sizes


@dataclass
class _Task:
    """An instruction in the load unit.

    ``prepared``: cycle from which its rows are listed. ``listed``: cycle in which the last one was.
    ``taken``: cycle in which the writing side took the instruction. The next one may be accepted
    two cycles after both.
    """

    fields: Mapping[str, int]
    done: Callable[[int], None]
    prepared: int
    listed: int | None = None
    taken: int | None = None


class _Load:
    """The load unit: the asking side is a process, the writing side follows the beats."""

    def __init__(self, model: "_Simulation") -> None:
        self.model, self.kernel, self.config = model, model.kernel, model.config
        self.outstanding = 0
        self.room = _Gate()
        self.accepted = _Gate()
        #: Opens when something about the newest task has become known.
        self.known = _Gate()
        self.prepare = LoadUnit.ISSUE_CYCLES[self.config.R] - RowBursts.LATENCY
        self.ask: deque[_Task] = deque()
        self.write: deque[_Task] = deque()
        self.newest: _Task | None = None
        self.rows: deque[_Row] = deque()
        self.writer = -1  # cycle in which the last row ended
        self.fresh = True  # the next row is the first of its instruction

    def begin(self, start: int, fields: Mapping[str, int], done: Callable[[int], None]) -> None:
        """Accept an instruction in cycle ``start``."""
        task = _Task(fields, done, start + self.prepare)
        if not self.write:
            task.taken = max(task.prepared, self.writer + 1)
        self.newest = task
        self.ask.append(task)
        self.write.append(task)
        self.kernel.open(self.accepted)

    def ready(self) -> int | None:
        """Return the cycle from which the next instruction may be accepted, if that is known."""
        if self.newest is None:
            return 0
        listed, taken = self.newest.listed, self.newest.taken
        return None if listed is None or taken is None else max(listed, taken) + 2

    def run(self) -> _Process:
        """List the rows of all instructions and ask for their bursts."""
        check_free = split_free = 0
        while True:
            while not self.ask:
                yield self.accepted
            task = self.ask.popleft()
            addresses = places.row_addresses(task.fields).tolist()
            shapes: dict[int, _Row] = {}
            shown = task.prepared
            for number, address in enumerate(addresses):
                head = address % self.config.R
                if head not in shapes:
                    shapes[head] = _row_steps(self.config, task.fields, head)
                row = replace(
                    shapes[head], final=number == len(addresses) - 1, prepared=task.prepared
                )
                listed = max(shown, check_free)
                if row.final:
                    task.listed = listed
                    self.kernel.at(listed, lambda: self.kernel.open(self.known))
                hand = max(listed + _ROW, split_free)
                yield hand
                shown, check_free = listed + 1, hand + 1
                row.info = hand + Queue.LATENCY
                self.rows.append(row)
                self._advance()
                if not row.beats:
                    continue
                emit = hand + _BURST - 1
                for size in _bursts(self.config, address, row.beats):
                    # The register of the burst before must be free.
                    while "load" in self.model.bus.pending:
                        yield self.room
                    emit = max(emit, self.kernel.now)
                    yield emit + 1
                    while self.outstanding >= _OUTSTANDING:
                        yield self.room
                    self.model.bus.request("load", self._burst(row, size))
                    emit += _NEXT_BURST
                split_free = emit - _NEXT_BURST + 1

    def _burst(self, row: _Row, size: int) -> _Burst:
        def consume(offered: int) -> int:
            return self._take(row, offered)

        def granted(now: int) -> None:
            self.outstanding += 1
            self.model.count["read_beats"] += size
            self.kernel.at(now, lambda: self.kernel.open(self.room))

        def done(last: int) -> None:
            self._advance()
            self.kernel.at(last + 1, self._answered)

        return _Burst(size, consume, done, granted)

    def _answered(self) -> None:
        self.outstanding -= 1
        self.kernel.open(self.room)

    def _begin(self, row: _Row) -> None:
        """Set the cycle before the first step of the row at the front."""
        start = max(self.writer, row.info)
        if self.fresh:
            taken = self.write[0].taken
            assert taken is not None  # all rows before have ended
            start = max(taken + 1, row.info)
            self.fresh = False
        row.step, row.cycle = -1, start

    def _take(self, row: _Row, offered: int) -> int:
        """Return the cycle in which the next beat of ``row``, the one at the front, is taken."""
        if row.next_beat == 0:
            self._begin(row)
        first, last = row.first[row.next_beat], row.last[row.next_beat]
        reached = row.cycle + first - row.step
        row.cycle = max(reached, offered) + last - first
        row.step = last
        row.next_beat += 1
        return row.cycle

    def _advance(self) -> None:
        """End the rows whose beats are all known."""
        while self.rows and self.rows[0].next_beat == self.rows[0].beats:
            row = self.rows.popleft()
            if row.beats == 0:
                self._begin(row)
            self.writer = row.cycle + row.steps - 1 - row.step
            if row.final:
                self.fresh = True
                self.write.popleft().done(self.writer + LoadUnit.LATENCY + 1)
                if self.write:
                    self.write[0].taken = max(self.write[0].prepared, self.writer + 1)
                    self.kernel.at(self.kernel.now, lambda: self.kernel.open(self.known))


class _Store:
    """The store unit: one instruction at a time."""

    def __init__(self, model: "_Simulation") -> None:
        self.model, self.config = model, model.config

    def run(self, start: int, fields: Mapping[str, int]) -> int:
        """Return the cycle in which the instruction accepted in cycle ``start`` is done."""
        latency, interval = self.model.latency, self.model.interval
        answers: deque[int] = deque()  # of bursts on their way
        check_free = split_free = 0
        register = 0  # cycle in which the register of the burst is free
        shown, reading, fired, answer = start + _STORE_ROW, 0, -interval, 0
        size = fields["vectors"] * self.config.R
        for address in places.row_addresses(fields).tolist():
            taken = max(shown, check_free)
            hand = max(taken + _ROW, split_free)
            shown, check_free = taken + 1, hand + 1
            emit = hand + _BURST - 1
            for beats in _bursts(self.config, address, size // self.config.R):
                emit = max(emit, register)
                offered = emit + 1
                while len(answers) >= _OUTSTANDING:
                    offered = max(offered, answers.popleft() + 1)
                while answers and answers[0] < offered:
                    answers.popleft()
                register = offered
                begin = max(offered + StoreUnit.LATENCY - _STORE_READ, reading)
                reading = begin + beats
                for beat in range(beats):
                    fired = max(begin + beat + _STORE_READ, fired + interval)
                answer = max(fired + latency, answer + 1)
                answers.append(answer)
                self.model.count["write_beats"] += beats
                emit += _NEXT_BURST
            split_free = emit - _NEXT_BURST + 1
        return answer + _STORE_DONE


class _Stage:
    """A queue, the token stage and the unit behind it."""

    def __init__(self, model: "_Simulation", unit: Unit) -> None:
        self.model, self.kernel, self.unit = model, model.kernel, unit
        self.queue: deque[tuple[_Step, int]] = deque()
        self.level = 0  # as the dispatcher sees it
        self.changed = _Gate()
        self.done_cycles: list[int] = []
        self.last_start = -1
        self.finished = _Gate()

    def push(self, step: _Step) -> None:
        self.level += 1
        self.queue.append((step, self.kernel.now + Queue.LATENCY))
        self.kernel.open(self.changed)

    def _pop(self) -> None:
        self.level -= 1
        self.kernel.open(self.model.space)

    def run(self) -> _Process:
        model, kernel, unit = self.model, self.kernel, self.unit
        while True:
            while not self.queue:
                yield self.changed
            step, visible = self.queue[0]
            visible = max(visible, self.last_start + 1)
            yield visible
            sources = [u for u in isa.UNITS if step.fields["wait"] >> u & 1]
            arrived = {u: visible for u in sources}
            for source in sources:
                while model.tokens[source, unit] == 0:
                    yield model.token_gate
                # When this one came, if not before the instruction.
                arrived[source] = max(visible, model.token_cycles[source, unit][0])
            for source in sources:
                model.tokens[source, unit] -= 1
                model.token_cycles[source, unit].popleft()
            self._count_waits(arrived, visible)
            offered = kernel.now + _OFFER
            while len(self.done_cycles) < model.started[unit] - IN_FLIGHT + 1:
                yield self.finished
            if model.started[unit] >= IN_FLIGHT:
                offered = max(offered, self.done_cycles[model.started[unit] - IN_FLIGHT] + 1)
            yield offered
            yield from self._accept(step, offered)

    def _count_waits(self, arrived: Mapping[Unit, int], visible: int) -> None:
        """Count the cycles in which tokens were missing and nothing ran, by the first reason."""
        now = self.kernel.now
        if self.model.started[self.unit] > len(self.done_cycles):
            return
        begin = max(visible, self.done_cycles[-1] + 1 if self.done_cycles else 0)
        if now <= begin:
            return
        name, count = self.unit.name.lower(), self.model.count
        if self.unit in (Unit.LOAD, Unit.STORE):
            count[f"{name}_wait"] += now - begin
            return
        for source in isa.UNITS:
            key = f"{name}_wait_{source.name.lower()}"
            cycle = arrived.get(source, 0)
            if cycle > begin:
                if key in count:
                    count[key] += cycle - begin
                begin = cycle

    def _accept(self, step: _Step, offered: int) -> _Process:
        model, kernel, unit = self.model, self.kernel, self.unit
        model.started[unit] += 1

        def done(start: int) -> Callable[[int], None]:
            def act(cycle: int) -> None:
                kernel.at(cycle, lambda: self._done(step, start, offered, cycle))

            return act

        if unit == Unit.ARRAY:
            times = model.array.issue(offered, step.fields)
            start, end = times.accepted, times.done
            passes, pixels = ArrayTiming.work(step.fields)
            model.count["array_busy"] += passes * pixels
            yield start
            done(start)(end)
        elif unit == Unit.VECTOR:
            start = max(offered, model.vector_free)
            model.vector_free = start + vector_interval(model.config, step.fields)
            yield start
            done(start)(start + vector_cycles(model.config, step.fields))
        elif unit == Unit.STORE:
            while len(self.done_cycles) < model.started[unit] - 1:
                yield self.finished
            start = max(offered, self.done_cycles[-1] + 1 if self.done_cycles else 0)
            yield start
            done(start)(model.store.run(start, step.fields))
        else:
            ready = model.load.ready()
            while ready is None:
                yield model.load.known
                ready = model.load.ready()
            start = max(offered, ready)
            yield start
            model.load.begin(start, step.fields, done(start))
        self.last_start = start
        self.queue.popleft()
        kernel.at(start + 1, self._pop)

    def _done(self, step: _Step, start: int, offered: int, cycle: int) -> None:
        model = self.model
        model.spans.append(
            Span(step.index, self.unit, start, cycle, offered, model.layer(step.index))
        )
        self.done_cycles.append(cycle)
        self.kernel.open(self.finished)
        targets = [u for u in isa.UNITS if step.fields["signal"] >> u & 1]
        if targets:
            self.kernel.at(cycle + _TOKEN, lambda: self._signal(targets, cycle + _TOKEN))
        model.last_done = max(model.last_done, cycle)

    def _signal(self, targets: Sequence[Unit], cycle: int) -> None:
        for target in targets:
            self.model.tokens[self.unit, target] += 1
            self.model.token_cycles[self.unit, target].append(cycle)
        self.kernel.open(self.model.token_gate)


class _Simulation:
    """One run."""

    def __init__(
        self,
        config: AcceleratorConfig,
        steps: Sequence[_Step],
        layers: Sequence[str],
        latency: int,
        interval: int,
    ) -> None:
        self.config, self.steps, self.layers = config, steps, layers
        self.latency, self.interval = latency, interval
        self.kernel = _Kernel()
        self.bus = _ReadBus(self.kernel, latency, interval)
        self.tokens = {(a, b): 0 for a in isa.UNITS for b in isa.UNITS}
        self.token_cycles: dict[tuple[Unit, Unit], deque[int]] = {
            pair: deque() for pair in self.tokens
        }
        self.token_gate = _Gate()
        self.space = _Gate()
        self.started = dict.fromkeys(isa.UNITS, 0)
        self.array = ArraySchedule(config)
        self.vector_free = 0
        self.load, self.store = _Load(self), _Store(self)
        self.stages = {unit: _Stage(self, unit) for unit in isa.UNITS}
        self.spans: list[Span] = []
        self.last_done = -1
        self.end = -1
        self.count = {
            "array_busy": 0,
            "array_wait_load": 0,
            "array_wait_vector": 0,
            "vector_wait_load": 0,
            "vector_wait_array": 0,
            "vector_wait_store": 0,
            "load_wait": 0,
            "store_wait": 0,
            "read_beats": 0,
            "write_beats": 0,
            "fetch_beats": 0,
        }
        # Fetching.
        self.slots = Fetch.PREFETCH
        self.slot_gate = _Gate()
        self.fetched: deque[int] = deque()  # cycles in which beats are at the decoder
        self.fetched_gate = _Gate()
        self.beats = isa.INSTRUCTION_BYTES // config.R

    def layer(self, index: int) -> str:
        return self.layers[index] if index < len(self.layers) else ""

    def run(self) -> None:
        self.kernel.start(self._fetch())
        self.kernel.start(self._decode())
        self.kernel.start(self.load.run())
        for stage in self.stages.values():
            self.kernel.start(stage.run())
        self.kernel.run()
        if self.end < 0 or len(self.spans) != len(self.steps) - 1:
            raise IntaglioError(
                f"the program stops after {len(self.spans)} of {len(self.steps) - 1} instructions"
            )

    def _fetch(self) -> _Process:
        size = min(self.beats, self.config.burst_beats)
        parts = self.beats // size
        free = _Gate()
        cycle = _START
        for _ in self.steps:
            yield cycle - 1
            while not self.slots:
                yield self.slot_gate
            self.slots -= 1
            cycle = self.kernel.now + 1
            for _ in range(parts):
                yield cycle
                grants: list[int] = []

                def granted(now: int, grants: list[int] = grants) -> None:
                    grants.append(now)
                    self.kernel.open(free)

                self.bus.request("fetch", _Burst(size, self._arrive, self._arrived, granted))
                while not grants:
                    yield free
                cycle = grants[0] + 1
            cycle += 2  # settle, wait

    def _arrive(self, offered: int) -> int:
        self.fetched.append(offered + Queue.LATENCY)
        self.count["fetch_beats"] += 1
        return offered

    def _arrived(self, last: int) -> None:
        self.kernel.at(self.kernel.now, lambda: self.kernel.open(self.fetched_gate))

    def _release(self) -> None:
        self.slots += 1
        self.kernel.open(self.slot_gate)

    def _decode(self) -> _Process:
        ready = 0
        for step in self.steps:
            for _ in range(self.beats):
                while not self.fetched:
                    yield self.fetched_gate
                ready = max(ready, self.fetched.popleft()) + 1
            last = ready - 1
            self.kernel.at(last + 1, self._release)
            yield last + Decoder.LATENCY
            unit = step.instruction.unit
            if unit is None:
                self.end = self.kernel.now
                return
            while self.stages[unit].level >= self.config.queue_depth:
                yield self.space
            self.stages[unit].push(step)
            ready = self.kernel.now + 1


def _union(spans: Sequence[Span]) -> int:
    """Return the cycles in which one of the spans runs."""
    total, reached = 0, -1
    for span in sorted(spans, key=lambda s: s.start):
        begin = max(span.start, reached)
        total += max(span.end - begin, 0)
        reached = max(reached, span.end)
    return total


@dataclass(frozen=True, kw_only=True)
class CycleModel:
    """Predicts the cycles of a program on ``config``.

    Parameters
    ----------
    config
        The machine.
    memory_latency
        Cycles from an accepted read address to its first beat, and from the last write beat to its
        response.
    memory_interval
        Least cycles between two beats, in each direction.
    """

    config: AcceleratorConfig
    memory_latency: int = 20
    memory_interval: int = 1

    def __post_init__(self) -> None:
        for name, least in (("memory_latency", 2), ("memory_interval", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")

    def run(self, program: Program, *, check: bool = False) -> Timeline:
        """Return the timeline of ``program``.

        With ``check``, :func:`intaglio_sim.golden.checker.check_program` comes first.

        Raises
        ------
        IntaglioError
            Another configuration, a program that does not decode or does not reach ``end``.
        """
        program.check_config(self.config)
        if check:
            report = check_program(program)
            if not report.ok:
                raise IntaglioError(report.problems[0])
        steps = []
        for index in range(program.length):
            try:
                instruction, fields = isa.decode(program.instruction(index))
            except ValueError as error:
                raise IntaglioError(f"instruction {index}: {error}") from error
            steps.append(_Step(index, instruction, fields))
        simulation = _Simulation(
            self.config, steps, program.layers, self.memory_latency, self.memory_interval
        )
        simulation.run()
        return self._timeline(program, simulation)

    def _timeline(self, program: Program, simulation: _Simulation) -> Timeline:
        cycles = max(simulation.last_done, simulation.end) + 1 + _FINISH
        spans = tuple(sorted(simulation.spans, key=lambda s: (s.start, s.index)))
        counters = {"cycles": cycles, **simulation.count}
        for unit in (Unit.LOAD, Unit.VECTOR, Unit.STORE):
            counters[f"{unit.name.lower()}_busy"] = _union([s for s in spans if s.unit == unit])
        counters["instructions"] = len(spans)
        return Timeline(
            self.config, cycles, spans, self._layers(program, spans, simulation.steps), counters
        )

    def _layers(
        self, program: Program, spans: Sequence[Span], steps: Sequence[_Step]
    ) -> tuple[LayerCycles, ...]:
        grouped: dict[str, list[Span]] = {}
        for span in sorted(spans, key=lambda s: s.index):
            grouped.setdefault(span.layer, []).append(span)
        result, reached = [], 0
        for name, members in grouped.items():
            busy = read = written = 0
            for span in members:
                instruction, fields = steps[span.index].instruction, steps[span.index].fields
                if span.unit == Unit.ARRAY:
                    passes, pixels = ArrayTiming.work(fields)
                    busy += passes * pixels
                elif span.unit in (Unit.LOAD, Unit.STORE):
                    addresses = places.row_addresses(fields)
                    size = fields.get("vectors", 0) * self.config.R
                    if instruction is isa.LOAD:
                        size = places.used_bytes(self.config, fields)
                    beats = len(places.beats_of_rows(self.config, addresses, size))
                    read += beats * self.config.R * (instruction is isa.LOAD)
                    written += beats * self.config.R * (instruction is isa.STORE)
            begin, end = min(s.start for s in members), max(s.end for s in members)
            cycles, macs = end - begin + 1, program.macs.get(name, 0)
            result.append(
                LayerCycles(
                    name=name,
                    instructions=len(members),
                    cycles=cycles,
                    share=max(end - reached, 0),
                    macs=macs,
                    array_busy=busy,
                    utilization=macs / (cycles * self.config.macs_per_cycle),
                    bytes_read=read,
                    bytes_written=written,
                )
            )
            reached = max(reached, end)
        return tuple(result)
