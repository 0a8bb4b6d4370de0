"""The cycle model of the sequential machine: what its microprogram takes for each instruction.

There one instruction runs after the other, and how long does not depend on data (but for a bias of
more than 46 bits, and for readings of the timer that meet its carry: 12 cycles, at most once in
65,536). So the cycles of a program are a sum, and each term of it is what the model of the engine
takes for an instruction of the same shape: it is run once, alone, and remembered. Rows of ``load``
and ``store``, channel blocks of ``array`` and chunks of ``vector`` repeat: of them a few are run,
and the others take as long.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Function, Unit
from intaglio_hw.axi import BOUNDARY_BYTES
from intaglio_hw.sequential import microcode
from intaglio_hw.sequential.layout import UNIT_TOKENS, Layout
from intaglio_hw.sequential.simulator import Engine
from intaglio_sim.golden import places

__all__ = ["BUSY", "Cost", "SequentialFlow", "in_order", "sequential_flow"]

Fields = Mapping[str, int]

#: Memory that instructions run on alone: the longest row from any place in a page, and a page for
#: the program, in the middle of which it lies.
_MEMORY_BYTES = (1 << 20) + 3 * BOUNDARY_BYTES
_PROGRAM_PAGE = _MEMORY_BYTES - 2 * BOUNDARY_BYTES
_PROGRAM_BASE = _PROGRAM_PAGE + BOUNDARY_BYTES // 2
#: Tokens that an instruction finds: enough to take one and to give one.
_TOKENS = isa.TOKEN_MAX // 2
_IDLE_INSTRUCTIONS = 2000
#: Fields of ``vector`` that time depends on, for all functions, and for each.
_VECTOR_FIELDS = ("residual", "uniform", "out_rows", "out_cols", "shift", "res_shift", "acc_bank")
_SOURCE_FIELDS = ("src_rows", "src_cols", "stride_h", "stride_w", "offset_h", "offset_w")
_FUNCTION_FIELDS = {
    Function.DRAIN: (),
    Function.MAX: (*_SOURCE_FIELDS, "kernel_h", "kernel_w", "accumulate"),
    Function.SUM: (*_SOURCE_FIELDS, "kernel_h", "kernel_w", "accumulate"),
    Function.RESIZE: (
        *_SOURCE_FIELDS,
        "den_h",
        "den_w",
        "step_h",
        "step_w",
        "frac_h",
        "frac_w",
    ),
    Function.ARGMAX: (*_SOURCE_FIELDS, "channels", "high_byte"),
}


@dataclass(frozen=True)
class Cost:
    """Cycles of an instruction: from the fetch to its start, from there until it is done, and from
    there to the next fetch. ``busy``: what it adds to the counter of its unit.
    """

    before: int
    run: int
    after: int
    busy: int


class SequentialFlow:
    """What instructions take on ``config`` with a memory of ``latency`` and ``interval``."""

    def __init__(self, config: AcceleratorConfig, latency: int, interval: int) -> None:
        self.config = config
        self._engine = engine = Engine(
            microcode.assemble(config),
            config,
            latency=latency,
            interval=interval,
            compute=False,
            fill=0,
        )
        engine.memory = np.zeros(_MEMORY_BYTES, np.uint8)
        engine.run(lambda engine: engine.ready, instructions=_IDLE_INSTRUCTIONS)
        self._next = engine.microprogram.labels["next"]
        self._layout = Layout.of(config)
        self._alone_of: dict[tuple[str, bytes], Cost] = {}
        self._run_of: dict[tuple[str, tuple[int, ...]], int] = {}
        self._around: dict[tuple[str, int, int], Cost] = {}
        #: Cycles of a program that is nothing but ``end``.
        self.end = self._cycles_of_end(_PROGRAM_BASE)
        # A fetch takes less where a page begins or ends.
        self._first, self._last = (
            self._cycles_of_end(_PROGRAM_PAGE + offset) - self.end
            for offset in (0, BOUNDARY_BYTES - isa.INSTRUCTION_BYTES)
        )

    def fetches(self, program_base: int, length: int) -> int:
        """Return the cycles that the fetches of a program take besides what each takes in the
        middle of a page.
        """
        offsets = program_base + isa.INSTRUCTION_BYTES * np.arange(length)
        first = offsets % BOUNDARY_BYTES == 0
        last = offsets % BOUNDARY_BYTES == BOUNDARY_BYTES - isa.INSTRUCTION_BYTES
        return int(first.sum()) * self._first + int(last.sum()) * self._last

    def _cycles_of_end(self, base: int) -> int:
        engine = self._engine
        self._start([isa.encode("end")], base)
        while engine.busy:
            engine.step()
        return engine.get("cycles")

    def _start(self, program: Sequence[bytes], base: int = _PROGRAM_BASE) -> None:
        engine = self._engine
        data = np.frombuffer(b"".join(program), np.uint8)
        engine.memory[base : base + len(data)] = data
        for name, value in (
            ("program_base", base),
            ("program_length", len(program)),
            ("memory_base", 0),
            ("memory_bytes", _MEMORY_BYTES),
            ("cycle_limit", 0),
        ):
            engine.put(name, value)
        engine.trace.clear()
        engine.put("control", 1)

    def _alone(self, name: str, fields: Fields, wait: int = 0, signal: int = 0) -> Cost:
        """Run an instruction alone, with enough tokens."""
        values = {k: v for k, v in fields.items() if k not in ("opcode", "wait", "signal")}
        data = isa.encode(name, values, wait=wait, signal=signal)
        if (name, data) in self._alone_of:
            return self._alone_of[name, data]
        engine = self._engine
        # Biases of zero, whatever was loaded before.
        pairs = 4 * self._layout.regions["prm"]
        engine.sp[pairs : pairs + 4 * self.config.prm_depth] = [0] * (4 * self.config.prm_depth)
        held = name == "vector" and fields["accumulate"]
        self._start([data, isa.encode("end")])
        begun: list[int] = []
        while engine.busy:
            if engine.pc == self._next:
                begun.append(engine.cycle)
                if len(begun) == 1:
                    self._give_tokens()
                    if held:
                        self._hold(fields["function"])
            engine.step()
        if not engine.done:
            raise IntaglioError(
                f"the cycle model cannot run {name} {dict(fields)}: "
                f"{isa.Error(engine.get('error')).name}"
            )
        start, done = (event[3] for event in engine.trace)
        counter = f"{name}_busy"
        cost = Cost(
            start - begun[0],
            done - start,
            begun[1] - done,
            engine.get(counter) if name != "array" else 0,
        )
        self._alone_of[name, data] = cost
        return cost

    def _give_tokens(self) -> None:
        layout = self._layout
        for unit in isa.UNITS:
            first = 4 * layout.units + unit * layout.unit_words + UNIT_TOKENS
            self._engine.sp[first : first + len(isa.UNITS)] = [_TOKENS] * len(isa.UNITS)

    def _hold(self, function: int) -> None:
        """Let the vector unit have something to go on with."""
        names = self._engine.microprogram.names
        number = next(number for number, name in names.items() if name == "held")
        self._engine.r[number] = function

    # ------------------------------------------------------------------------------ instructions

    def cost(self, name: str, fields: Fields) -> Cost:
        """Return what an instruction takes that finds its tokens."""
        key = (name, fields["wait"], fields["signal"])
        if key not in self._around:
            small = isa.decode(isa.encode(name))[1]
            self._around[key] = self._alone(name, small, fields["wait"], fields["signal"])
        around = self._around[key]
        run = {
            "load": self._load,
            "store": self._store,
            "array": self._array,
            "vector": self._vector,
        }[name](fields)
        # The counter of a unit sees a little more, or less, than its trace.
        busy = run - around.run + around.busy if name != "array" else 0
        return Cost(around.before, run, around.after, busy)

    def _run(self, name: str, key: tuple[int, ...], fields: Callable[[], Fields]) -> int:
        """Return how long an instruction runs, by its ``key``; ``fields`` returns one with it."""
        if (name, key) not in self._run_of:
            self._run_of[name, key] = self._alone(name, fields()).run
        return self._run_of[name, key]

    def _rows(self, name: str, f: Fields, used: int, shape: tuple[int, ...]) -> int:
        """Return how long ``load`` or ``store`` runs; ``used``: bytes of each row on the bus."""
        R = self.config.R
        addresses = places.row_addresses(f)
        within = addresses % BOUNDARY_BYTES
        # Where in a page a row lies only matters if a burst begins where the page does, or could
        # reach its end.
        longest = self.config.burst_beats * R
        plain = (within >= R) & (within + used + longest <= BOUNDARY_BYTES)
        canonical = np.where(plain, R + within % R, within)
        new_plane = np.arange(len(addresses)) % f["rows"] == 0
        kinds, counts = np.unique(
            np.stack([canonical[1:], new_plane[1:]]), axis=1, return_counts=True
        )
        pairs = [
            (int(address), bool(plane), int(count))
            for (address, plane), count in zip(kinds.T, counts, strict=True)
        ]

        def one(address: int, rows: int, planes: int) -> int:
            return self._run(
                name,
                (address, rows, planes, *shape),
                lambda: {
                    **f,
                    "base": 0,
                    "address": address,
                    "rows": rows,
                    "planes": planes,
                    "row_step": 0,
                    "plane_step": 0,
                },
            )

        total = one(int(canonical[0]), 1, 1)
        for address, plane, count in pairs:
            more = one(address, 1, 2) if plane else one(address, 2, 1)
            total += count * (more - one(address, 1, 1))
        return total

    def _load(self, f: Fields) -> int:
        used = places.used_bytes(self.config, f)
        names = ("buffer", "vectors", "vector_step", "lead", "row_bytes")
        return self._rows("load", f, used, tuple(f[name] for name in names))

    def _store(self, f: Fields) -> int:
        return self._rows("store", f, f["vectors"] * self.config.R, (f["vectors"],))

    def _array(self, f: Fields) -> int:
        """Blocks after the first ones take as long as each other."""
        pixels = f["out_rows"] * f["out_cols"]
        # A position beyond every tile takes an instruction more; so does a plane beyond IFM.
        far = tuple(
            (f[f"offset_{axis}"], f[f"dilation_{axis}"])
            if f[f"offset_{axis}"] + f[f"kernel_{axis}"] * f[f"dilation_{axis}"] >= 4096
            else (0, 0)
            for axis in ("h", "w")
        )
        if f["ifm_base"] + f["blocks"] * f["ifm_plane"] > 0xFFFF:
            return self._alone("array", f).run
        shape = (f["kernel_h"], f["kernel_w"], pixels, f["acc_bank"], *far[0], *far[1])

        def one(blocks: int) -> int:
            return self._run("array", (blocks, *shape), lambda: {**f, "blocks": blocks})

        few = 3
        if f["blocks"] <= few:
            return one(f["blocks"])
        return one(few) + (f["blocks"] - few) * (one(few) - one(few - 1))

    def _vector(self, f: Fields) -> int:
        """Chunks after the first take as long as each other, but for those that end a block."""
        function = Function(f["function"])
        names = (*_VECTOR_FIELDS, *_FUNCTION_FIELDS[function])
        shape = (
            function,
            f["ofm_row_step"] == f["out_cols"] * f["ofm_col_step"],
            f["low"] > f["high"],
            *(f[name] for name in names),
        )

        def one(lane: int, chunks: int) -> int:
            return self._run(
                "vector",
                (lane, chunks, *shape),
                lambda: {**f, "lane": lane, "chunks": chunks},
            )

        if function in (Function.DRAIN, Function.ARGMAX):
            return one(0, 1)
        R, chunks = self.config.R, f["chunks"]
        last = R - 1
        source = f["src_base"] + (f["lane"] + chunks - 1) // R * f["src_plane"]
        if source + f["src_rows"] * f["src_cols"] > self.config.vec_depth:
            return self._alone("vector", f).run  # a tile of which a part is not there
        total = one(0, min(chunks, 2))
        if chunks > 2:
            total += (chunks - 2) * (one(0, 3) - one(0, 2))
        block = one(last, 1) - one(0, 1)
        return total + (f["lane"] + chunks) // R * block


@cache
def sequential_flow(config: AcceleratorConfig, latency: int, interval: int) -> SequentialFlow:
    """Return the flow of a machine and a memory, which remembers what it has run."""
    return SequentialFlow(config, latency, interval)


def in_order(batches: Sequence[isa.Batch]) -> list[tuple[isa.Instruction, dict[str, int]]]:
    """Return the instructions of a program with their fields, in its order.

    Raises
    ------
    IntaglioError
        An instruction that finds its tokens missing when it is fetched: there the model ends.
    """
    found: dict[int, tuple[isa.Instruction, dict[str, int]]] = {}
    for batch in batches:
        for index, row in zip(batch.index.tolist(), batch.rows(), strict=True):
            found[index] = batch.instruction, row
    ordered = [found[index] for index in sorted(found)]
    tokens = {(a, b): 0 for a in isa.UNITS for b in isa.UNITS}
    for index, (instruction, fields) in enumerate(ordered):
        unit = instruction.unit
        if unit is None:
            return ordered[:index]
        for other in isa.UNITS:
            if fields["wait"] >> other & 1:
                tokens[other, unit] -= 1
                if tokens[other, unit] < 0:
                    raise IntaglioError(
                        f"instruction {index} ({instruction.name}) waits for an instruction behind "
                        "it: the cycle model of the sequential machine has no figure for that"
                    )
        for other in isa.UNITS:
            tokens[unit, other] += fields["signal"] >> other & 1
    raise IntaglioError("the program has no end")


#: Units with a counter of their own cycles.
BUSY = (Unit.LOAD, Unit.VECTOR, Unit.STORE)
