"""The machine in the cycle model, as a flow of cycles from instruction to instruction.

Every cycle is the largest of some earlier ones plus constants (a *known* cycle, once those are
known), whatever the order in which they are computed; so nothing has to be simulated in order of
time. The only choice in the machine is which reader the bus serves, and there a request that is not
known yet can only depend on a burst that has not been granted: it comes later than that grant. So
:meth:`Flow.run` computes all that is known, grants the burst that is first, and begins again.
"""

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Unit
from intaglio.spec.memory import OUTSTANDING
from intaglio.spec.timing import ArraySchedule
from intaglio.spec.timing_vector import vector_cycles, vector_interval
from intaglio_hw.axi import BOUNDARY_BYTES, RowBursts
from intaglio_hw.fetch import Decoder, Fetch
from intaglio_hw.interfaces import IN_FLIGHT, READ_LATENCY
from intaglio_hw.load import LoadUnit
from intaglio_hw.queues import HeadQueue
from intaglio_hw.sequencer import Sequencer
from intaglio_hw.stages import UnitStage
from intaglio_hw.store import StoreUnit
from intaglio_hw.streams import Queue
from intaglio_sim.golden.cycle_bus import ReadBus, RowShape, bursts, row_shape

__all__ = ["Flow", "Stage"]

#: From a done to its token at the other unit, and from a granted instruction to its offer.
_TOKEN = UnitStage.TOKEN
_OFFER = UnitStage.LATENCY - _TOKEN
#: From a done to the offer of the next but one instruction.
_AGAIN = 2
#: From the offset of a row to its hand-over, and from there to the first burst.
_ROW = 2
_BURST = RowBursts.LATENCY - _ROW
#: Between two bursts of a row, and from the grant of one to the emission of another.
_NEXT_BURST = 3
_EMIT = RowBursts.GAP - 1
#: From the acceptance of a store to its first row, and from its last response to its done.
_STORE_ROW, _STORE_DONE = StoreUnit.ISSUE_CYCLES - RowBursts.LATENCY, StoreUnit.DONE_CYCLES
#: From a read of OFM to its beat.
_STORE_READ = READ_LATENCY + Queue.LATENCY
#: From the first busy cycle to the first request of the fetch unit.
_START = Sequencer.START + Fetch.START
#: Later than every cycle.
_NEVER = 1 << 62

_Fields = Mapping[str, int]


class Stage:
    """A queue, the token stage and the unit behind it, for the instructions of one unit in order.

    ``fields``: of each instruction; ``waits``, ``signals``: its tokens. The lists ``offered``,
    ``start`` and ``done`` grow with the instructions, ``visible`` (at the token stage) and
    ``granted`` (all tokens there) too.
    """

    def __init__(
        self,
        flow: "Flow",
        unit: Unit,
        fields: Sequence[_Fields],
        waits: Sequence[int],
        signals: Sequence[int],
    ) -> None:
        self.flow, self.unit = flow, unit
        self.fields, self.waits, self.signals = fields, waits, signals
        self.pushed: list[int] = []
        self.visible: list[int] = []
        self.granted: list[int] = []
        self.offered: list[int] = []
        self.start: list[int] = []
        self.popped: list[int] = []
        self.done: list[int] = []
        self._busy = 0  # cycle in which the stage let its last instruction go
        self._sources = [
            [(u, flow.tokens[u, unit]) for u in isa.UNITS if mask >> u & 1] for mask in range(16)
        ]
        self._targets = [
            [(u, flow.tokens[unit, u]) for u in isa.UNITS if mask >> u & 1] for mask in range(16)
        ]
        #: An instruction or a token has come since :meth:`advance` last looked.
        self.stirred = False
        #: Cycles in which the token of each unit was missing while nothing ran.
        self.missing = dict.fromkeys(isa.UNITS, 0)

    def advance(self) -> bool:
        """Begin the instructions whose cycles are known; return whether there was one."""
        self.stirred = False
        index = begun = len(self.start)
        while index < len(self.pushed):
            sources = self._sources[self.waits[index]]
            for _, tokens in sources:
                if not tokens:
                    return index > begun
            if index >= IN_FLIGHT and len(self.done) <= index - IN_FLIGHT:
                return index > begun
            if not self._ready(index):
                return index > begun
            visible = self.pushed[index] + HeadQueue.LATENCY
            if index and visible < self.start[-1] + UnitStage.LEAVE:
                visible = self.start[-1] + UnitStage.LEAVE
            granted = max(visible, self._busy)
            if sources:
                arrived = {source: max(visible, tokens.popleft()) for source, tokens in sources}
                granted = max(granted, *arrived.values())
                if granted > visible and len(self.done) == index:
                    self._count(visible, granted, arrived)
            offered = granted + _OFFER
            if index >= IN_FLIGHT and offered < self.done[index - IN_FLIGHT] + _AGAIN:
                offered = self.done[index - IN_FLIGHT] + _AGAIN
            self.visible.append(visible)
            self.granted.append(granted)
            self.offered.append(offered)
            self._accept(index, offered)
            index += 1
        return index > begun

    def _count(self, visible: int, granted: int, arrived: Mapping[Unit, int]) -> None:
        """Count the cycles in which tokens were missing and nothing ran, by the first reason."""
        begin = max(visible, self.done[-1] + 1) if self.done else visible
        for source, cycle in arrived.items():
            if cycle > begin:
                self.missing[source] += cycle - begin
                begin = cycle

    def waiting(self) -> int:
        """Return the cycles in which tokens were missing and nothing ran."""
        begin = np.array(self.visible, np.int64)
        if len(begin) > 1:
            begin[1:] = np.maximum(begin[1:], np.array(self.done[: len(begin) - 1]) + 1)
        return int(np.maximum(np.array(self.granted, np.int64) - begin, 0).sum())

    def _ready(self, index: int) -> bool:
        """Return whether all is known that :meth:`_accept` needs."""
        return True

    def _accept(self, index: int, offered: int) -> None:
        raise NotImplementedError

    def _begin(self, start: int, left: int) -> None:
        """Note the instruction that is accepted in ``start`` and leaves the stage in ``left``."""
        self.start.append(start)
        self._busy = left
        self.popped.append(max(start + Sequencer.PLACE, left))

    def finish(self, done: int) -> None:
        """Note that the next instruction is done in cycle ``done``, and give its tokens."""
        for unit, tokens in self._targets[self.signals[len(self.done)]]:
            tokens.append(done + _TOKEN)
            self.flow.stages[unit].stirred = True
        self.done.append(done)


class _ArrayStage(Stage):
    def __init__(self, flow: "Flow", *args: Any) -> None:
        super().__init__(flow, *args)
        self._schedule = ArraySchedule(flow.config)

    def _accept(self, index: int, offered: int) -> None:
        times = self._schedule.issue(offered, self.fields[index])
        self._begin(times.accepted, times.accepted)
        self.finish(times.done)


class _VectorStage(Stage):
    _free = 0

    def _accept(self, index: int, offered: int) -> None:
        config, fields = self.flow.config, self.fields[index]
        start = max(offered, self._free)
        self._free = start + vector_interval(config, fields)
        self._begin(start, start)
        self.finish(start + vector_cycles(config, fields))


class _StoreStage(Stage):
    """The store unit: one instruction at a time."""

    def _ready(self, index: int) -> bool:
        return len(self.done) == index

    def _accept(self, index: int, offered: int) -> None:
        start = max(offered, self.done[-1] + 1) if index else offered
        self._begin(start, start)
        self.finish(self._run(start, self.fields[index]))

    def _run(self, start: int, fields: _Fields) -> int:
        """Return the cycle in which the instruction accepted in cycle ``start`` is done."""
        config, latency, interval = self.flow.config, self.flow.latency, self.flow.interval
        answers = deque([0] * OUTSTANDING, OUTSTANDING)  # of the last bursts
        check_free = split_free = 0
        register = 0  # cycle in which the register of the burst is free
        shown, reading, fired, answer = start + _STORE_ROW, 0, -interval, 0
        vectors, room = fields["vectors"], config.burst_beats
        page = BOUNDARY_BYTES // config.R
        for address in row_addresses(fields):
            hand = max(max(shown, check_free) + _ROW, split_free)
            shown, check_free = max(shown, check_free) + 1, hand + 1
            emit = hand + _BURST - 1
            if vectors <= room and address // config.R % page + vectors <= page:
                sizes = [vectors]
            else:
                sizes = bursts(config, address, vectors)
            for beats in sizes:
                emit = max(emit, register)
                register = max(emit, answers[0]) + RowBursts.GAP
                begin = max(register - _EMIT + StoreUnit.LATENCY - _STORE_READ, reading)
                reading = begin + beats
                # Beat j fires in max(begin + j + _STORE_READ, the one before + interval); as the
                # interval is 1 at least, the first one decides.
                fired = max(begin + _STORE_READ, fired + interval) + (beats - 1) * interval
                answer = max(fired + latency, answer + 1)
                answers.append(answer + StoreUnit.RELEASE - 1)
                emit += _NEXT_BURST
            split_free = emit - _NEXT_BURST + 1
        return answer + _STORE_DONE


class _Task:
    """An instruction in the load unit.

    ``prepared``: cycle from which its rows are listed. ``listed``: cycle in which the last one was,
    ``listing``: in which that is decided. ``taken``: cycle in which the writing side takes the
    instruction, ``taking``: in which that is decided. The next one may be accepted NEXT_ACCEPT
    cycles after ``listed`` and ``taken``.
    """

    __slots__ = ("accepted", "fields", "listed", "listing", "prepared", "taken", "taking")

    def __init__(self, fields: _Fields, accepted: int, prepared: int) -> None:
        self.fields, self.accepted, self.prepared = fields, accepted, prepared
        self.listed = self.listing = self.taken = self.taking = -1


class _Burst(NamedTuple):
    """A burst of ``load`` that was asked for in ``cycle``: beats ``[first, stop)`` of a row."""

    cycle: int
    shape: RowShape
    first: int
    stop: int
    info: int  # cycle in which the writing side knows the row
    final: bool  # of the last row of its instruction


class _LoadStage(Stage):
    """The load unit: :meth:`run` asks for the bursts of its rows, and follows their beats.

    The asking side asks for a burst when the one before has been granted. The writing side finishes
    a row when its last beat has come.
    """

    def __init__(self, flow: "Flow", *args: Any) -> None:
        super().__init__(flow, *args)
        self.bus = flow.bus
        self._tasks: deque[_Task] = deque()  # begun, not taken up by the asking side
        self._open: deque[_Task] = deque()  # begun, not finished by the writing side
        self._newest: _Task | None = None
        self._prepare = LoadUnit.ISSUE_CYCLES[flow.config.R] - RowBursts.LATENCY
        # The asking side.
        self._waiting: _Burst | None = None  # not granted yet
        self._empty: list[tuple[int, int, int, bool]] = []  # rows without beats, behind that burst
        self._emit = 0  # cycle before that in which the last burst could be asked for
        self._granted = 0  # cycle in which the last one was granted
        self._checked = 0  # cycle from which the next row may be checked
        self._releases = deque([0] * OUTSTANDING, OUTSTANDING)  # of the last bursts of this unit
        # The writing side.
        self._writer = -1  # cycle in which the last row ended
        self._cycle, self._step = -1, -1  # last step that is known of the row at work
        self._fresh = True  # the next row is the first of its instruction
        self._decided = 0  # cycle in which the end of the last instruction is decided

    def _ready(self, index: int) -> bool:
        newest = self._newest
        return newest is None or (newest.listed >= 0 and newest.taken >= 0)

    def _accept(self, index: int, offered: int) -> None:
        start, decided = offered, 0
        if self._newest is not None:
            last = self._newest
            start = max(
                offered,
                last.listed + LoadUnit.NEXT_ACCEPT,
                last.taken + LoadUnit.NEXT_ACCEPT,
            )
            decided = max(last.listing, last.taking)
        accepted = max(start, decided)
        self._begin(start, accepted)
        task = _Task(self.fields[index], accepted, start + self._prepare)
        self._newest = task
        self._tasks.append(task)
        self._open.append(task)
        if len(self._open) == 1:
            self._take()

    def run(self) -> Generator[bool, None, None]:
        """Load all instructions.

        Yields False when other units may know more now, and True when there is nothing to do
        before the fetch unit was served.
        """
        config = self.flow.config
        R, room, page = config.R, config.burst_beats, BOUNDARY_BYTES // config.R
        now = check_free = split_free = 0
        while True:
            while not self._tasks:
                if self._waiting is None or not self._settle():
                    yield True
                else:
                    yield False
            task = self._tasks.popleft()
            fields = task.fields
            now = max(now, task.accepted)
            shown = task.prepared
            addresses = row_addresses(fields)
            count = len(addresses)
            aligned = fields["row_step"] % R == fields["plane_step"] % R == 0
            head = -1
            number = 0
            while number < count:
                address = addresses[number]
                if address % R != head:
                    head = address % R
                    shape = row_shape(config, fields, head)
                    beats = shape.beats
                if 0 < number < count - 2 and aligned and shape.plain and beats <= room:
                    ended = self._waiting is not None and self._waiting.final
                    while self._waiting is not None and not self._settle():
                        yield True
                    if ended:
                        yield False
                    done = self._repeat(addresses, number, count - 2, beats)
                    if done:
                        number += done
                        now, shown = self._granted, 0
                        check_free, split_free = self._checked, self._emit + 1
                        continue
                listed = max(shown, check_free)
                final = number == count - 1
                if final:
                    task.listed, task.listing = listed, now
                    yield False
                hand = max(listed + _ROW, split_free)
                now = max(now, hand)
                shown, check_free = listed + 1, hand + 1
                number += 1
                if not beats:
                    self._empty.append((shape.steps, hand + LoadUnit.ROW, now, final))
                    if self._waiting is None:
                        self._pass(0)
                        if final:
                            yield False
                    continue
                emit = hand + _BURST - 1
                sizes = (
                    (beats,)
                    if beats <= room and address // R % page + beats <= page
                    else bursts(config, address, beats)
                )
                first = 0
                for size in sizes:
                    if self._waiting is not None:
                        ended = self._waiting.final
                        while not self._settle():
                            yield True
                        if ended:
                            yield False
                    now = max(now, self._granted)
                    emit = max(emit, now, self._granted + _EMIT)
                    now = max(emit + 1, self._releases[0])
                    self._waiting = _Burst(
                        now, shape, first, first + size, hand + LoadUnit.ROW, final
                    )
                    self._emit = emit
                    emit += _NEXT_BURST
                    first += size
                split_free = self._emit + 1

    def _repeat(self, addresses: Sequence[int], number: int, stop: int, beats: int) -> int:
        """Load rows ``[number, stop)``, which are equal and one burst each, as far as nothing else
        happens; return how many those are.

        Row after row, the hand-over comes in the cycle after ``emit``, and the next ``emit`` three
        later at least; all beats flow.
        """
        bus, config = self.bus, self.flow.config
        flowing = bus.left == bus.shown and bus.taken == bus.left + 1 == self._writer
        if not flowing or bus.granted != self._granted:
            return 0
        interval, latency, releases, places = (
            bus.interval,
            bus.latency,
            self._releases,
            bus.releases,
        )
        request, rest = self.flow.request, (beats - 1) * bus.interval
        limit = BOUNDARY_BYTES - (beats - 1) * config.R  # rows from here on cross a boundary
        emit, granted, shown, before = self._emit, self._granted, bus.shown, bus.before
        done = 0
        for address in addresses[number:stop]:
            # Comparisons instead of max(): most of the model's time is spent here.
            next_emit = emit + _NEXT_BURST
            if granted + _EMIT > next_emit:
                next_emit = granted + _EMIT
            next_granted = releases[0]
            if places[0] > next_granted:
                next_granted = places[0]
            if next_granted <= next_emit:
                next_granted = next_emit + 1
            if next_granted >= request or address % BOUNDARY_BYTES >= limit:
                break
            self._checked = emit + 2
            emit, granted, before = next_emit, next_granted, shown + 1
            shown += interval
            if shown < granted + latency:
                shown = granted + latency
            shown += rest
            places.append(shown + 1)
            releases.append(shown + 1 + LoadUnit.RELEASE)
            done += 1
        if done:
            self._emit, self._granted, bus.granted = emit, granted, granted
            bus.shown = bus.left = shown
            bus.taken = self._writer = shown + 1
            bus.before = before if beats == 1 else shown + 1 - interval
        return done

    def _settle(self) -> bool:
        """Grant the waiting burst and take its beats, unless the fetch unit comes first."""
        burst, bus = self._waiting, self.bus
        assert burst is not None
        granted = max(burst.cycle, bus.earliest())
        if self.flow.request <= granted:
            return False
        self._waiting = None
        self._granted = granted
        due = bus.grant(granted)
        shape, first, stop = burst.shape, burst.first, burst.stop
        if first == 0:
            self._cycle, self._step = self._before(burst.info), -1
        if shape.dense:
            wish = self._cycle + shape.first[first] - self._step
            self._cycle = bus.stream(stop - first, due, wish)
        else:
            self._cycle = bus.pace(
                due, shape.first[first:stop], shape.last[first:stop], self._cycle, self._step
            )
        self._step = shape.last[stop - 1]
        self._releases.append(self._cycle + LoadUnit.RELEASE)
        if stop == shape.beats:
            self._writer = self._cycle + shape.steps - 1 - self._step
            if burst.final:
                self._end(granted)
            self._pass(granted)
        return True

    def _before(self, info: int) -> int:
        """Return the cycle before the first step of the next row, known from ``info`` on."""
        if self._fresh:
            self._fresh = False
            return max(self._open[0].taken + 1, info)
        return max(self._writer, info)

    def _pass(self, granted: int) -> None:
        """End the rows without beats that follow on a burst granted in cycle ``granted``."""
        for steps, info, decided, final in self._empty:
            self._writer = self._before(info) + steps
            if final:
                self._end(max(decided, granted))
        self._empty.clear()

    def _end(self, decided: int) -> None:
        """End the oldest instruction."""
        self._fresh = True
        self._decided = decided
        self._open.popleft()
        self.finish(self._writer + LoadUnit.LATENCY + 1)
        if self._open:
            self._take()

    def _take(self) -> None:
        """Let the writing side take the instruction that is the oldest now."""
        task = self._open[0]
        task.taken = max(task.prepared, self._writer + LoadUnit.NEXT_TAKE)
        task.taking = max(task.accepted, self._decided)


class Flow:
    """One run of a program on ``config``, its memory ``latency`` and ``interval`` as in
    :class:`intaglio_sim.golden.cycles.CycleModel`.

    After :meth:`run`: ``stages`` of all units, ``end``: the cycle in which ``end`` was decoded, or
    -1 if it was not; ``fetch_beats``.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        batches: Sequence[isa.Batch],
        latency: int,
        interval: int,
    ) -> None:
        self.config, self.latency, self.interval = config, latency, interval
        self.bus = ReadBus(latency, interval)
        #: For each pair of units, the cycles in which tokens come that nobody has taken yet.
        self.tokens: dict[tuple[Unit, Unit], deque[int]] = {
            (a, b): deque() for a in isa.UNITS for b in isa.UNITS
        }
        #: Cycle of the request of the fetch unit, if known.
        self.request = _NEVER
        self.length = sum(len(batch.index) for batch in batches)
        units = np.full(self.length, -1)
        self.index: dict[Unit, np.ndarray] = {}
        self.stages: dict[Unit, Stage] = {}
        found = {batch.instruction.unit: batch for batch in batches}
        for unit, stage in (
            (Unit.LOAD, _LoadStage),
            (Unit.ARRAY, _ArrayStage),
            (Unit.VECTOR, _VectorStage),
            (Unit.STORE, _StoreStage),
        ):
            rows: list[dict[str, int]] = []
            waits: list[int] = []
            signals: list[int] = []
            self.index[unit] = np.empty(0, np.int64)
            if unit in found:
                batch = found[unit]
                units[batch.index] = unit
                self.index[unit] = batch.index
                waits, signals = batch.fields["wait"].tolist(), batch.fields["signal"].tolist()
                rows = batch.rows()
            self.stages[unit] = stage(self, unit, rows, waits, signals)
        self._units = units.tolist()
        self.end = -1
        self.fetch_beats = 0
        # Fetching.
        self._beats = isa.INSTRUCTION_BYTES // config.R
        self._size = min(self._beats, config.burst_beats)
        self._fetching = 0  # instruction that is asked for, and how many of its bursts were
        self._parts = 0
        self._ask = _START  # cycle from which the next burst may be asked for
        # Decoding.
        self._decoding = 0  # instruction at the decoder
        self._arrived: deque[int] = deque()  # cycles after the last beats of fetched instructions
        self._freed: list[int] = []  # cycles in which their places at the fetch unit are free
        self._ready = 0  # cycle in which the decoder takes the next beat
        self._dispatch: int | None = None  # cycle in which it offers the instruction to its queue

    def run(self) -> None:
        """Follow the program to its end, or to where it stops."""
        stages = list(self.stages.values())
        load = self.stages[Unit.LOAD]
        assert isinstance(load, _LoadStage)
        loading = load.run()
        while True:
            # The load unit may go on by itself, the others only when something comes.
            load.stirred = True
            while self._decode() | any([stage.advance() for stage in stages if stage.stirred]):
                pass
            self._fetch()
            if next(loading):
                if self.request == _NEVER:
                    return
                self._serve()

    def _fetch(self) -> None:
        """Find out when the fetch unit asks for the next burst."""
        if self.request != _NEVER or self._fetching == self.length:
            return
        cycle = self._ask
        if self._parts == 0 and self._fetching >= Fetch.PREFETCH:
            place = self._fetching - Fetch.PREFETCH
            if place >= len(self._freed):
                return
            cycle = max(cycle, self._freed[place] + 1)
        self.request = cycle

    def _serve(self) -> None:
        """Grant the burst that the fetch unit asks for."""
        granted = max(self.request, self.bus.earliest())
        self.request = _NEVER
        taken = self.bus.stream(self._size, self.bus.grant(granted))
        self.fetch_beats += self._size
        self._ask = granted + 2  # settle
        self._parts += 1
        if self._parts * self._size == self._beats:
            # Beats come a cycle apart at least: the decoder waits for the last one.
            self._arrived.append(taken + Fetch.LATENCY + 1)
            self._ask += 1  # wait
            self._parts = 0
            self._fetching += 1

    def _decode(self) -> bool:
        """Decode and dispatch what is known; return whether there was something."""
        progress = False
        while self.end < 0 and self._decoding < self.length:
            if self._dispatch is None:
                if not self._arrived:
                    break
                ready = max(self._ready + self._beats, self._arrived.popleft())
                self._freed.append(ready + 1)
                self._dispatch = ready - 1 + Decoder.LATENCY
                progress = True
            unit = self._units[self._decoding]
            if unit < 0:
                self.end = self._dispatch
                break
            stage = self.stages[unit]
            room = len(stage.pushed) - self.config.queue_depth
            if room >= 0:
                if room >= len(stage.popped):
                    break
                self._dispatch = max(self._dispatch, stage.popped[room])
            stage.pushed.append(self._dispatch + Sequencer.PUSH)
            stage.stirred = True
            self._ready = self._dispatch + 1
            self._dispatch = None
            self._decoding += 1
            progress = True
        return progress


def row_addresses(fields: _Fields) -> list[int]:
    """Return the byte offset of each row, as :func:`intaglio_sim.golden.places.row_addresses`."""
    rows, step = fields["rows"], fields["row_step"]
    plane_step, base = fields["plane_step"], fields["address"]
    if rows == 1 or step == 0:
        starts = [base + plane * plane_step for plane in range(fields["planes"])]
        return starts if rows == 1 else [start for start in starts for _ in range(rows)]
    result: list[int] = []
    for plane in range(fields["planes"]):
        start = base + plane * plane_step
        result += range(start, start + rows * step, step)
    return result
