"""The cycle model: what must hold without a simulator. Against the RTL: tests/rtl."""

import dataclasses
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec import isa
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Unit
from intaglio.spec.program import Program
from intaglio.spec.regs import COUNTERS
from intaglio.spec.timing import ArrayTiming
from intaglio.spec.timing_vector import vector_cycles
from intaglio_hw.fetch import Decoder
from intaglio_sim.golden import places
from intaglio_sim.golden.cycle_bus import ReadBus, bursts, row_shape
from intaglio_sim.golden.cycle_flow import _LoadStage, row_addresses
from intaglio_sim.golden.cycles import CycleModel, Span, Timeline
from intaglio_sim.golden.trace import chrome_trace, spans_of_events, write_trace
from intaglio_sim.random_graph import random_graph
from intaglio_sim.system import TraceEvent

CONFIG = CONFIGS["mini-8x8"]


def handmade(*words: bytes, config: AcceleratorConfig = CONFIG) -> Program:
    """Return a program of these instructions and ``end``, for the cycle model only."""
    instructions = np.frombuffer(b"".join([*words, isa.encode("end")]), np.uint8)
    return Program(
        config=config,
        graph_digest="",
        instructions=instructions,
        program_base=0,
        memory=np.zeros(4096, np.uint8),
        values={},
        inputs=(),
        outputs=(),
        layers=(*("layer" for _ in words), ""),
        macs={"layer": 64},
    )


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[Program, Timeline]]:
    result = {}
    for name, config in CONFIGS.items():
        program = compile_graph(random_graph(3), config)
        result[name] = program, CycleModel(config=config).run(program, check=True)
    return result


def by_unit(timeline: Timeline) -> dict[Unit, list[Span]]:
    ordered = sorted(timeline.spans, key=lambda span: span.index)
    return {unit: [span for span in ordered if span.unit == unit] for unit in isa.UNITS}


# ----------------------------------------------------------------------------- single instructions


@pytest.mark.parametrize("pixels", [1, 5, 100])
def test_array_instruction_takes_what_its_timing_says(pixels: int) -> None:
    fields = dict(out_cols=pixels, kernel_w=3, ifm_cols=4095, stride_w=1, blocks=2)
    (span,) = CycleModel(config=CONFIG).run(handmade(isa.encode("array", fields))).spans
    all_fields = isa.decode(isa.encode("array", fields))[1]
    assert span.end - span.start == ArrayTiming(CONFIG).latency(all_fields)


@pytest.mark.parametrize("function", isa.Function)
def test_vector_instruction_takes_what_its_timing_says(function: isa.Function) -> None:
    word = isa.encode("vector", dict(function=function, chunks=2, out_cols=7, channels=20))
    (span,) = CycleModel(config=CONFIG).run(handmade(word)).spans
    assert span.end - span.start == vector_cycles(CONFIG, isa.decode(word)[1])


def test_latency_of_the_memory_counts_once_for_a_load() -> None:
    word = isa.encode("load", dict(vectors=8, vector_step=8, row_bytes=64))
    durations = []
    for latency in (2, 20, 100):
        timeline = CycleModel(config=CONFIG, memory_latency=latency).run(handmade(word))
        (span,) = timeline.spans
        durations.append(span.end - span.start - latency)
        assert timeline.counters["read_beats"] == 8
    assert len(set(durations)) == 1


def test_slow_beats_count_for_each() -> None:
    word = isa.encode("load", dict(vectors=100, vector_step=8, row_bytes=800))
    store = isa.encode("store", dict(vectors=100))
    for program in (handmade(word), handmade(store)):
        one, four = (
            CycleModel(config=CONFIG, memory_interval=interval).run(program).spans[0]
            for interval in (1, 4)
        )
        # Two bursts, so 99 times between the first and the last beat.
        assert (four.end - four.start) - (one.end - one.start) == 3 * 99


@pytest.mark.parametrize(
    ("fields", "beats"),
    [
        (dict(vectors=4, vector_step=8, row_bytes=32), 4),
        (dict(vectors=4, vector_step=8, row_bytes=32, address=3), 5),
        # Overlapping windows: 10 vectors of 8 bytes, 3 apart, are 35 bytes.
        (dict(vectors=10, vector_step=3, row_bytes=99), 5),
        # Padding on both sides: nothing is read beyond the row.
        (dict(vectors=4, vector_step=8, row_bytes=8, lead=8), 1),
        # A vector of padding alone.
        (dict(vectors=1, vector_step=8, row_bytes=8, lead=8), 0),
        (dict(vectors=4, vector_step=8, row_bytes=32, rows=3, planes=2, row_step=40), 24),
    ],
)
def test_beats_of_a_load(fields: dict[str, int], beats: int) -> None:
    timeline = CycleModel(config=CONFIG).run(handmade(isa.encode("load", fields)))
    assert timeline.counters["read_beats"] == beats
    assert timeline.layers[0].bytes_read == 8 * beats


def test_fetching_alone_is_limited_by_the_decoder() -> None:
    """Eight beats and the checks' cycles for each instruction, when memory is fast."""
    # The least instructions take their units longer than that: no unit gets them all.
    words = [isa.encode("vector", {"function": 1}), *[isa.encode("array")] * 2] * 13
    timeline = CycleModel(config=CONFIG, memory_latency=2).run(handmade(*words))
    starts = [span.start for span in sorted(timeline.spans, key=lambda span: span.index)]
    assert [b - a for a, b in pairwise(starts)] == [64 // CONFIG.R + Decoder.LATENCY] * 38
    assert timeline.counters["fetch_beats"] == 40 * 8


# ---------------------------------------------------------------------------------- whole programs


@pytest.mark.parametrize("name", CONFIGS)
def test_every_instruction_once_and_in_the_order_of_its_unit(
    name: str, compiled: dict[str, tuple[Program, Timeline]]
) -> None:
    program, timeline = compiled[name]
    assert sorted(span.index for span in timeline.spans) == list(range(program.length - 1))
    for spans in by_unit(timeline).values():
        for a, b in pairwise(spans):
            assert a.start < b.start
            assert a.end < b.end
        for a, b in pairwise(spans[::2]):
            assert a.end < b.start  # two in flight at most
    for a, b in pairwise(by_unit(timeline)[Unit.STORE]):
        assert a.end < b.start
    for span in timeline.spans:
        assert span.offered <= span.start < span.end < timeline.cycles
        assert span.layer == program.layers[span.index]


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_obeyed(name: str, compiled: dict[str, tuple[Program, Timeline]]) -> None:
    program, timeline = compiled[name]
    spans = {span.index: span for span in timeline.spans}
    given: dict[tuple[Unit, Unit], list[int]] = {}
    taken: dict[tuple[Unit, Unit], list[int]] = {}
    for index in range(program.length - 1):
        instruction, fields = isa.decode(program.instruction(index))
        assert instruction.unit is not None
        for unit in isa.UNITS:
            if fields["signal"] >> unit & 1:
                given.setdefault((instruction.unit, unit), []).append(spans[index].end)
            if fields["wait"] >> unit & 1:
                taken.setdefault((unit, instruction.unit), []).append(spans[index].start)
    assert given.keys() == taken.keys()
    for pair, ends in given.items():
        assert all(start >= end + 2 for end, start in zip(ends, taken[pair], strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_counters_and_layers(name: str, compiled: dict[str, tuple[Program, Timeline]]) -> None:
    program, timeline = compiled[name]
    counters, R = timeline.counters, program.config.R
    assert counters.keys() == {counter for counter, _ in COUNTERS}
    assert counters["cycles"] == timeline.cycles
    assert counters["instructions"] == program.length - 1
    assert counters["fetch_beats"] == program.length * 64 // R
    for counter, value in counters.items():
        assert value >= 0
        if not counter.endswith("_beats"):
            assert value <= timeline.cycles, counter
    assert counters["array_busy"] == sum(layer.array_busy for layer in timeline.layers)
    assert counters["read_beats"] * R == sum(layer.bytes_read for layer in timeline.layers)
    assert counters["write_beats"] * R == sum(layer.bytes_written for layer in timeline.layers)
    assert timeline.macs == sum(program.macs.values())
    assert 0 < timeline.utilization <= 1
    # The shares of the layers are the whole run up to its last done.
    last = max(span.end for span in timeline.spans)
    assert sum(layer.share for layer in timeline.layers) == last
    assert [layer.name for layer in timeline.layers] == list(dict.fromkeys(program.layers[:-1]))
    for layer in timeline.layers:
        assert layer.utilization <= 1
        assert layer.instructions == program.layers.count(layer.name)


def test_a_slower_memory_is_never_faster(compiled: dict[str, tuple[Program, Timeline]]) -> None:
    program, timeline = compiled["tiny-8x8"]
    slower = [
        CycleModel(config=program.config, memory_latency=latency, memory_interval=interval)
        .run(program)
        .cycles
        for latency, interval in ((20, 1), (60, 1), (60, 2), (60, 4))
    ]
    assert slower[0] == timeline.cycles
    assert slower == sorted(set(slower))


def test_plans_follow_the_memory() -> None:
    """The search knows both numbers of a memory: over some networks, the plans made for one are the
    fastest on it.
    """
    config = CONFIGS["tiny-8x8"]
    memories = ((2, 1), (300, 1), (20, 4))
    total = np.zeros((3, 3), np.int64)
    for seed in range(12):
        graph = random_graph(seed, layers=6, size=32, channels=40, classes=9)
        programs = [compile_graph(graph, config, latency=a, interval=b) for a, b in memories]
        for row, (latency, interval) in zip(total, memories, strict=True):
            model = CycleModel(config=config, memory_latency=latency, memory_interval=interval)
            row += [model.run(program).cycles for program in programs]
    assert total.argmin(1).tolist() == [0, 1, 2]


def test_refusals(compiled: dict[str, tuple[Program, Timeline]]) -> None:
    program, _ = compiled["tiny-8x8"]
    with pytest.raises(IntaglioError, match="the program is for configuration tiny-8x8"):
        CycleModel(config=CONFIG).run(program)
    with pytest.raises(ValueError, match="memory_latency must be an integer of at least 2, not 1"):
        CycleModel(config=CONFIG, memory_latency=1)
    with pytest.raises(ValueError, match="memory_interval must be an integer of at least 1, not 0"):
        CycleModel(config=CONFIG, memory_interval=0)
    stuck = handmade(isa.encode("array", wait=1))
    with pytest.raises(IntaglioError, match="the program stops after 0 of 1 instructions"):
        CycleModel(config=CONFIG).run(stuck)
    with pytest.raises(IntaglioError, match="deadlock: instruction 2 .array. waits for load"):
        CycleModel(config=CONFIG).run(
            handmade(
                isa.encode("load", dict(buffer=1, vectors=8, row_bytes=64, vector_step=8)),
                isa.encode("load", dict(row_bytes=8, vector_step=8)),
                isa.encode("array", wait=1),
            ),
            check=True,
        )


# ------------------------------------------------------------------------------------ closed forms

MEMORIES = ((20, 1), (7, 3), (2, 1), (60, 4), (2, 2))
#: Short queues; a burst that is no whole instruction; an instruction of two beats.
ODD_CONFIGS = (
    CONFIGS["mini-8x8"],
    CONFIGS["wide-16x8"],
    AcceleratorConfig(name="odd-8x8", burst_beats=4, queue_depth=2),
    AcceleratorConfig(name="one-32x8", R=32, burst_beats=1, queue_depth=2),
)


class BeatByBeat(ReadBus):
    """The recurrence of the module, without its closed form."""

    def stream(self, beats: int, due: int, wish: int = 0) -> int:
        for _ in range(beats):
            self.shown = max(due, self.left + 1, self.shown + self.interval)
            self.left = max(self.shown, self.before + 1)
            self.before, self.taken = self.taken, max(wish, max(self.left, self.taken) + 1)
        self.releases.append(self.left + 1)
        return self.taken


def state(bus: ReadBus) -> tuple[int, ...]:
    return (bus.shown, bus.left, bus.taken, bus.before, *bus.releases)


@pytest.mark.parametrize("interval", [1, 2, 3, 4])
def test_bursts_in_closed_form_are_those_beat_by_beat(interval: int) -> None:
    rng = random.Random(interval)
    for _ in range(50):
        fast, slow = ReadBus(2, interval), BeatByBeat(2, interval)
        for _ in range(40):
            due = fast.shown + rng.choice([-9, 0, 1, 2, 3, 5, 40])
            beats = rng.choice([1, 1, 2, 3, 4, 5, 64, rng.randint(1, 256)])
            wish = fast.taken + rng.choice([-5, 0, 1, 2, 3, 4, 50])
            if rng.random() < 0.7:
                assert fast.stream(beats, due, wish) == slow.stream(beats, due, wish)
            else:  # a reader that lets beats wait in between
                last = np.cumsum([rng.randint(0, 3) for _ in range(beats)]).tolist()
                for bus in (fast, slow):
                    bus.pace(due, last, last, wish, -1)
            assert state(fast) == state(slow)


@pytest.mark.parametrize("R", [8, 16, 32])
def test_rows_in_closed_form_are_those_step_by_step(R: int) -> None:
    """Every head and vector step: the beats of a row are those of its bytes, and dense rows take in
    the closed form what they take step by step.
    """
    config = dataclasses.replace(CONFIG, name="x", R=R)
    rng = random.Random(R)
    dense = 0
    for head in range(R):
        for step in range(1, R + 1):
            vectors = rng.randint(1, 40)
            lead = rng.choice([0, 0, rng.randint(0, 7 * R)])
            fields = dict(
                vectors=vectors, vector_step=step, lead=lead, row_bytes=rng.randint(1, 50 * R)
            )
            shape = row_shape(config, fields, head)
            used = places.used_bytes(config, fields)
            assert shape.beats == len(places.beats_of_rows(config, np.array([head]), used))
            assert shape.steps - vectors in (0, 1)  # a skipped beat is a step
            assert len(shape.first) == len(shape.last) == shape.beats
            for a, b in zip(shape.first, shape.last, strict=True):
                assert a <= b
            if not shape.dense or not shape.beats:
                continue
            dense += 1
            for interval in (1, 2, 3, 4):
                fast, slow = ReadBus(20, interval), ReadBus(20, interval)
                cycle, at, first = rng.randint(0, 90), -1, 0
                for size in bursts(config, head, shape.beats):
                    due, stop = rng.randint(0, 200), first + size
                    taken = slow.pace(
                        due, shape.first[first:stop], shape.last[first:stop], cycle, at
                    )
                    wish = cycle + shape.first[first] - at
                    assert fast.stream(size, due, wish) == taken
                    assert state(fast) == state(slow)
                    cycle, at, first = taken, shape.last[stop - 1], stop
    assert dense >= R


def random_words(rng: random.Random, config: AcceleratorConfig) -> list[bytes]:
    """Return instructions of all units in random order, with tokens from earlier to later ones."""
    R, drawn = config.R, []
    for _ in range(rng.randint(20, 50)):
        unit = rng.choice([Unit.LOAD, Unit.LOAD, *isa.UNITS])
        fields: dict[str, int] = {}
        if unit in (Unit.LOAD, Unit.STORE):
            vectors = rng.choice([1, 2, 3, 5, 8, rng.randint(1, 40), rng.randint(100, 600)])
            fields = dict(
                address=R * rng.randrange(2000),
                vectors=vectors,
                rows=rng.choice([1, 2, 3, 30]) if vectors < 50 else rng.randint(1, 3),
                planes=rng.randint(1, 3),
                row_step=R * rng.randint(0, 300),
                plane_step=R * rng.randint(0, 3000),
            )
        if unit == Unit.LOAD:
            step = R if rng.random() < 0.6 else rng.randint(1, R)
            fields |= dict(vector_step=step, row_bytes=vectors * step)
            if rng.random() < 0.3:  # padding, any alignment, rows of padding alone
                fields["lead"] = rng.randint(0, 7 * R)
                fields["address"] += rng.randrange(R)
                fields["row_step"] += rng.randrange(R)
                fields["row_bytes"] = rng.randint(1, vectors * step)
        elif unit == Unit.ARRAY:
            fields = dict(blocks=rng.randint(1, 9), out_cols=rng.randint(1, 180))
        elif unit == Unit.VECTOR:
            fields = dict(function=rng.randint(0, 2), chunks=2, out_cols=rng.randint(1, 200))
        drawn.append((unit, fields))
    waits, signals = [0] * len(drawn), [0] * len(drawn)
    newest: dict[tuple[Unit, Unit], int] = {}
    for index, (unit, _) in enumerate(drawn):
        for other in set(isa.UNITS) - {unit}:
            after = newest.get((other, unit), -1)
            sources = [i for i in range(after + 1, index) if drawn[i][0] == other]
            if sources and rng.random() < 0.3:
                newest[other, unit] = source = rng.choice(sources)
                waits[index] |= 1 << other
                signals[source] |= 1 << unit
    return [
        isa.encode(unit.name.lower(), fields, wait=wait, signal=signal)
        for (unit, fields), wait, signal in zip(drawn, waits, signals, strict=True)
    ]


@pytest.mark.parametrize("config", ODD_CONFIGS, ids=lambda config: config.name)
def test_programs_in_closed_form_are_those_beat_by_beat(
    config: AcceleratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bursts beat by beat and rows one by one give the same timeline."""
    rng = random.Random(1)
    programs = [handmade(*random_words(rng, config), config=config) for _ in range(8)]
    models = [CycleModel(config=config, memory_latency=a, memory_interval=b) for a, b in MEMORIES]
    fast = [model.run(program) for program in programs for model in models]
    repeated, original = 0, _LoadStage._repeat

    def counted(self: _LoadStage, addresses: list[int], *args: int) -> int:
        nonlocal repeated
        done = original(self, addresses, *args)
        repeated += done
        return done

    monkeypatch.setattr(_LoadStage, "_repeat", counted)
    assert [model.run(programs[0]) for model in models] == fast[: len(models)]
    assert repeated or config.burst_beats == 1
    monkeypatch.setattr(_LoadStage, "_repeat", lambda *args: 0)
    monkeypatch.setattr("intaglio_sim.golden.cycle_flow.ReadBus", BeatByBeat)
    assert [model.run(program) for program in programs for model in models] == fast


def test_rows_of_many_instructions() -> None:
    """Addresses and beats of rows are those of ``places``, row by row."""
    rng = random.Random(2)
    for config in (CONFIG, CONFIGS["wide-16x8"]):
        words = random_words(rng, config) + random_words(rng, config)
        words += [isa.encode("load", dict(rows=3, planes=2, row_step=0, plane_step=7))]
        batches = isa.decode_all(np.frombuffer(b"".join(words), np.uint8))
        assert {batch.instruction for batch in batches} == {*isa.INSTRUCTIONS} - {isa.END}
        for batch in batches:
            if batch.instruction not in (isa.LOAD, isa.STORE):
                continue
            sizes = batch.fields["vectors"] * config.R
            if batch.instruction is isa.LOAD:
                sizes = places.used_bytes(config, batch.fields)
            beats = places.row_beats(config, batch.fields, sizes)
            for row, size, count in zip(batch.rows(), sizes.tolist(), beats, strict=True):
                addresses = places.row_addresses(row)
                assert row_addresses(row) == addresses.tolist()
                if batch.instruction is isa.LOAD:
                    assert size == places.used_bytes(config, row)
                assert count == len(places.beats_of_rows(config, addresses, size))


# ------------------------------------------------------------------------------------------ traces


def test_trace(compiled: dict[str, tuple[Program, Timeline]], tmp_path: Path) -> None:
    program, timeline = compiled["mini-8x8"]
    # The RTL's events, as if it were two cycles later everywhere.
    events = [
        TraceEvent(cycle + 2, kind, span.unit, span.index)
        for span in timeline.spans
        for cycle, kind in ((span.start, "start"), (span.end, "done"))
    ]
    rtl = spans_of_events(events, program)
    shifted = [
        dataclasses.replace(s, start=s.start + 2, end=s.end + 2, offered=s.start + 2)
        for s in timeline.spans
    ]
    assert rtl == shifted
    path = tmp_path / "trace.json"
    write_trace(path, {"model": timeline.spans, "verilator": rtl}, program=program)
    trace = json.loads(path.read_text(encoding="utf-8"))
    assert trace == chrome_trace({"model": timeline.spans, "verilator": rtl}, program=program)
    boxes = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(boxes) == 2 * len(timeline.spans)
    names = {
        event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"
    }
    assert names == {"model", "verilator"}
    # Boxes of one lane do not overlap, and each has its instruction's fields.
    lanes: dict[tuple[int, int], int] = {}
    for box in sorted(boxes, key=lambda b: b["ts"]):
        key = (box["pid"], box["tid"])
        assert box["ts"] >= lanes.get(key, 0)
        lanes[key] = box["ts"] + box["dur"]
        _, fields = isa.decode(program.instruction(box["args"]["instruction"]))
        assert fields.items() <= box["args"].items()


def test_a_done_without_a_start() -> None:
    with pytest.raises(ValueError, match="instruction 3 is done, but was not started"):
        spans_of_events([TraceEvent(5, "done", Unit.LOAD, 3)])
    # One that has not finished is left out.
    assert spans_of_events([TraceEvent(5, "start", Unit.LOAD, 3)]) == []
