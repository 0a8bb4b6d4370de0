"""A model of the engine with its scratchpad memory, array and DMA, by their documented behaviour.

It runs a microprogram on a byte array as the memory, some hundred thousand instructions a second:
for tests of the microprogram, and as what the hardware is compared with (:meth:`Engine.step`).
"""

from collections.abc import Callable, Iterable

import numpy as np

from intaglio.spec import regs
from intaglio.spec.arith import SUM_BITS, SUM_MAX, SUM_MIN, requantize
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.sequential.assembler import Microprogram
from intaglio_hw.sequential.interface import (
    INSTRUCTION_CYCLES,
    INVERT,
    REGISTERS,
    TRAP_PLACE,
    Condition,
    Control,
    Mode,
    Operation,
    Port,
    Source,
    register_number,
)
from intaglio_hw.sequential.layout import Layout

__all__ = ["Engine", "SimulationError"]

_BEAT = 8
_BITS_TIMER = 32
#: Instructions between two looks at what happens outside.
_FEW = 32
#: Cycles of a pass of the array besides its pixels.
_PASS_CYCLES = 7
#: Cycles from the begin of an instruction to when it looks at a condition.
_LOOK_CYCLES = 1
#: Cycles of a burst besides its beats and the memory's latency; and least cycles for each beat that
#: is written.
_READ_CYCLES, _WRITE_CYCLES, _WRITE_INTERVAL = 1, 1, 2
_PLACE_BITS = 25
#: Cycles of the drain datapath for an output, and besides one for so many bits of the shift.
_DRAIN_START, _DRAIN_CYCLES = 2, 9
_DRAIN_STRIDE = 8


class SimulationError(Exception):
    """The microprogram did what the engine does not allow."""


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


class Engine:
    """The engine after a reset.

    ``r``: registers. ``sp``: the scratchpad memory, words of 16 bits. ``acc``: int32 sums as they
    are. ``memory``: the bytes at bus address ``base``; a beat outside of it or at a byte offset in
    ``bad`` is answered with an error. ``done``, ``failed``, ``busy``, ``stop``, ``expired``: as the
    flags of these names. ``trace``: (start units, done units, index, cycle) of each OUT to TRACE.
    ``reads``, ``writes``: bursts as (byte offset, beats).

    Parameters
    ----------
    microprogram
        What :func:`intaglio_hw.sequential.microcode.assemble` returns.
    config
        The machine.
    latency, interval
        Of the memory: cycles from an accepted address to the first beat, and from the last beat
        that is written to the response; least cycles between two beats.
    compute
        Whether array and drain do their work, or only take their time.
    fill
        Byte of scratchpads and accumulators before the program.
    """

    def __init__(
        self,
        microprogram: Microprogram,
        config: AcceleratorConfig,
        *,
        latency: int = 10,
        interval: int = 1,
        compute: bool = True,
        fill: int = 0xA5,
    ) -> None:
        self.microprogram, self.config = microprogram, config
        self.latency, self.interval, self.compute = latency, interval, compute
        layout = Layout.of(config)
        self.regions = layout.regions
        self._vectors_mask = (1 << layout.address_bits) - 1
        self._words_mask = 4 * (self._vectors_mask + 1) - 1
        self.r = [0x5A5A] * REGISTERS
        for number, value in microprogram.registers.items():
            self.r[number] = value
        self.sp = [fill << 8 | fill] * (4 * layout.vectors)
        self.acc = [_signed(fill * 0x01010101, 32)] * (2 * config.acc_depth)
        self.pc = 0
        self.c = self.z = self.n = self.v = 0
        self.instructions = 0
        #: Cycles that passed while nothing was executed: what an idle wait has skipped.
        self.skipped = 0
        self.busy = self.stop = self.expired = self.ready = False
        self.done = self.failed = False
        self.spa = self.bsel = self.acca = 0
        self.product = (0, 0)
        self.timer = 0
        self.armed_at: int | None = None
        self.endless = self.trap = False
        self.dma_until = self.array_until = self.drain_until = 0
        self.dma_error = self.array_error = False
        self.ports = [0] * 64
        self.place_of_weights = 0
        self.memory = np.zeros(0, np.uint8)
        self.base = 0
        self.bad: set[int] = set()
        self.trace: list[tuple[int, int, int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self._code = [self._decode(word) for word in microprogram.words]

    # -------------------------------------------------------------------------------- the outside

    @property
    def cycle(self) -> int:
        """Value of the cycles since the reset."""
        return INSTRUCTION_CYCLES * self.instructions + self.skipped

    def get(self, name: str) -> int:
        """Return the register ``name`` of the register map as a host reads it."""
        if name == "status":
            return self.busy | self.done << 1 | self.failed << 2
        number = register_number(name)
        return self.r[number] | self.r[number + 1] << 16

    def put(self, name: str, value: int) -> None:
        """Write the register ``name`` of the register map, as a host does while not busy."""
        if name == "control":
            if value & 1 and not self.busy:
                self.busy, self.stop, self.expired, self.endless = True, False, False, False
                self.armed_at = None
                self.done = self.failed = False
            elif value & 2 and self.busy:
                self.stop = True
            return
        assert regs.register(name).access == "rw" and not self.busy
        number = register_number(name)
        self.r[number], self.r[number + 1] = value & 0xFFFF, value >> 16

    def step(self) -> None:
        """Execute one instruction; go to the trap if it is armed and there is a reason."""
        self._code[self.pc]()
        self.instructions += 1
        if self.trap and self.attention():
            self.pc, self.trap = TRAP_PLACE, False

    def run(self, until: Callable[["Engine"], bool], *, instructions: int) -> None:
        """Execute instructions until ``until`` holds, which is asked every few of them, as are the
        reasons for a trap.

        Raises
        ------
        SimulationError
            It does not hold after so many instructions.
        """
        limit = self.instructions + instructions
        code = self._code
        while not until(self):
            if self.instructions >= limit:
                raise SimulationError(
                    f"still running after {instructions} instructions, at "
                    f"{self.microprogram.place(self.pc)}"
                )
            for _ in range(_FEW):
                code[self.pc]()
                self.instructions += 1
            if self.trap and self.attention():
                self.pc, self.trap = TRAP_PLACE, False

    def region(self, name: str) -> np.ndarray:
        """Return a copy of a region of the scratchpad memory, uint8 (vectors, 8)."""
        first = 4 * self.regions[name]
        size = 4 * getattr(self.config, f"{name}_depth")
        return np.array(self.sp[first : first + size], "<u2").view(np.uint8).reshape(-1, _BEAT)

    # ----------------------------------------------------------------------------- instructions

    def _decode(self, word: int) -> Callable[[], None]:
        """Return a function that executes ``word``."""
        op, d, s = word >> 16, word >> 8 & 0xFF, word & 0xFF
        mode = Mode(op >> 6)
        if mode != Mode.CONTROL:
            return self._operation(Operation(op & 31), d, self._operand(mode, s))
        control = Control(op >> 4)
        target = (op & 15) << 8 | s
        if control == Control.JUMP:
            return self._jump(Condition(d & 15), bool(d & INVERT), target)
        if control == Control.CALL:

            def call() -> None:
                self.r[d] = self.pc + 1
                self.pc = target

            return call
        b = self._operand(Mode(op & 3), s)
        if control == Control.JR:

            def jr() -> None:
                self.pc = b() & 0xFFF

            return jr
        port = self._port(Port(d))

        def out() -> None:
            port(b())
            self.pc += 1

        return out

    def _operand(self, mode: Mode, s: int) -> Callable[[], int]:
        r = self.r
        if mode == Mode.REGISTER:
            return lambda: r[s]
        if mode == Mode.IMMEDIATE:
            return lambda: s
        return self._source(Source(s))

    def _jump(self, condition: Condition, unless: bool, target: int) -> Callable[[], None]:
        texts = {
            Condition.ALWAYS: "True",
            Condition.Z: "e.z",
            Condition.C: "e.c",
            Condition.N: "e.n",
            Condition.LT: "e.n ^ e.v",
            Condition.LE: "e.z or e.n ^ e.v",
            Condition.HI: "e.c and not e.z",
            Condition.BUSY: "e.busy",
            Condition.ATT: "e.attention()",
            Condition.STOP: "e.stop",
            Condition.DMA_BUSY: "e.cycle < e.dma_until",
            Condition.DMA_ERR: "e.dma_error",
            Condition.ARR_BUSY: "e.cycle < e.array_until",
            Condition.ARR_ERR: "e.array_error",
            Condition.DRAIN_BUSY: "e.cycle < e.drain_until",
        }
        test = f"not ({texts[condition]})" if unless else texts[condition]
        return self._compile(f"e.pc = {target} if {test} else e.pc + 1")

    def _compile(self, text: str, **names: object) -> Callable[[], None]:
        """Return a function with the body ``text``, in which ``e`` is the engine, ``r`` its
        registers.
        """
        body = "".join(f"\n    {line}" for line in text.splitlines())
        found: dict[str, Callable[[], None]] = {}
        scope = {"e": self, "r": self.r, **names}
        arguments = ", ".join(f"{name}={name}" for name in scope)
        exec(f"def execute({arguments}):{body}", scope, found)
        return found["execute"]

    def _operation(self, operation: Operation, d: int, b: Callable[[], int]) -> Callable[[], None]:
        logic = {Operation.AND: "&", Operation.OR: "|", Operation.XOR: "^", Operation.TST: "&"}
        flags = "e.z = x == 0\ne.n = x >> 15\n"
        compares = (Operation.TST, Operation.CMP, Operation.CPC)
        write = "" if operation in compares else f"r[{d}] = x\n"
        if operation == Operation.MOV:
            text = f"r[{d}] = b()\n"
        elif operation == Operation.SWP:
            text = f"y = b()\nr[{d}] = y >> 8 | (y & 255) << 8\n"
        elif operation == Operation.SXT:
            text = f"y = b() & 255\nr[{d}] = y | 0xFF00 if y & 128 else y\n"
        elif operation in (Operation.SHR, Operation.SAR, Operation.ROR):
            top = {Operation.SHR: "0", Operation.SAR: "y & 0x8000", Operation.ROR: "e.c << 15"}
            text = f"y = b()\nx = y >> 1 | {top[operation]}\ne.c = y & 1\n{flags}{write}"
        elif operation in logic:
            text = f"x = r[{d}] {logic[operation]} b()\n{flags}{write}"
        elif operation == Operation.MUL:
            text = f"e.check_drain()\ne.product = (r[{d}], b())\n"
        elif operation in (Operation.ADD, Operation.ADC):
            carry, zero = ("", "") if operation == Operation.ADD else (" + e.c", "e.z and ")
            text = (
                f"a = r[{d}]\ny = b()\nw = a + y{carry}\nx = w & 0xFFFF\ne.c = w >> 16\n"
                f"e.z = {zero}x == 0\ne.n = x >> 15\ne.v = ((a ^ x) & (y ^ x)) >> 15\n{write}"
            )
        else:
            first = operation in (Operation.SUB, Operation.CMP)
            borrow, zero = ("", "") if first else (" - 1 + e.c", "e.z and ")
            text = (
                f"a = r[{d}]\ny = b()\nw = a - y{borrow}\nx = w & 0xFFFF\ne.c = int(w >= 0)\n"
                f"e.z = {zero}x == 0\ne.n = x >> 15\ne.v = ((a ^ y) & (a ^ x)) >> 15\n{write}"
            )
        return self._compile(text + "e.pc += 1", b=b)

    # ------------------------------------------------------------------------ sources and ports

    def attention(self) -> bool:
        """Return the condition ATT."""
        if self.armed_at is not None and not self.endless:
            self.expired |= self.cycle - self.armed_at > self.timer
        return self.stop or self.expired

    def _time(self) -> int:
        if self.armed_at is None:
            return self.timer
        return (self.timer - (self.cycle - self.armed_at)) & ((1 << _BITS_TIMER) - 1)

    def check_drain(self) -> None:
        """Raise SimulationError while the drain datapath runs."""
        if self.cycle < self.drain_until:
            raise SimulationError(f"while the drain runs: {self.microprogram.place(self.pc)}")

    def _check_array(self) -> None:
        self.check_drain()
        if self.cycle < self.array_until:
            raise SimulationError(f"while the array runs: {self.microprogram.place(self.pc)}")

    def _check_memory(self) -> None:
        self._check_array()
        if self.cycle < self.dma_until:
            raise SimulationError(f"while the DMA runs: {self.microprogram.place(self.pc)}")

    def _source(self, source: Source) -> Callable[[], int]:
        def word() -> int:
            self._check_memory()
            return self.sp[self.spa]

        def next_word() -> int:
            found = word()
            self.spa = (self.spa + 1) & self._words_mask
            return found

        def byte() -> int:
            return _signed(word() >> 8 * self.bsel, 8) & 0xFFFF

        def low() -> int:
            self._check_array()
            return self.acc[self.acca] & 0xFFFF

        def high() -> int:
            self._check_array()
            return self.acc[self.acca] >> 16 & 0xFFFF

        def next_high() -> int:
            found = high()
            self.acca = (self.acca + 1) % len(self.acc)
            return found

        def product(signed_a: bool, signed_b: bool) -> Callable[[], int]:
            def part() -> int:
                self.check_drain()
                a, b = self.product
                a = _signed(a, 16) if signed_a else a
                b = _signed(b, 16) if signed_b else b
                return a * b >> 16 & 0xFFFF

            return part

        return {
            Source.SPW: word,
            Source.SPWI: next_word,
            Source.SBX: byte,
            Source.ACCL: low,
            Source.ACCH: high,
            Source.ACCHI: next_high,
            Source.PL: lambda: self.product[0] * self.product[1] & 0xFFFF,
            Source.PHS: product(True, True),
            Source.PHM: product(False, True),
            Source.PHU: product(False, False),
            Source.TIML: lambda: self._time() & 0xFFFF,
            Source.TIMH: lambda: self._time() >> 16,
        }[source]

    def _port(self, port: Port) -> Callable[[int], None]:
        special = {
            Port.SPA: self._out_spa,
            Port.SPW: self._out_word,
            Port.SPWI: self._out_next_word,
            Port.SPBYTE: self._out_byte,
            Port.BSEL: self._out_bsel,
            Port.ACCA: self._out_acca,
            Port.TIMH: self._out_timer_high,
            Port.TIML: self._out_timer_low,
            Port.TIMX: self._out_timer_off,
            Port.RDY: self._out_ready,
            Port.FIN: self._out_finish,
            Port.TRACE: self._out_trace,
            Port.TRAP: self._out_trap,
            Port.DMAGO: self._out_dma,
            Port.AWGT: self._out_weights,
            Port.AGO: self._out_array,
            Port.QGO: self._out_drain,
        }
        if port in special:
            return special[port]
        constant_while_running = (
            Port.AROWS, Port.ACOLS, Port.ASH, Port.ASW, Port.ARSL, Port.ARSH, Port.AP, Port.AQ,
            Port.APAD, Port.AACC,
        )  # fmt: skip

        def store(value: int) -> None:
            if port in constant_while_running:
                self._check_array()
            self.ports[port] = value

        return store

    def _out_spa(self, value: int) -> None:
        self.spa = value & self._words_mask

    def _out_word(self, value: int) -> None:
        self._check_memory()
        self.sp[self.spa] = value

    def _out_next_word(self, value: int) -> None:
        self._out_word(value)
        self.spa = (self.spa + 1) & self._words_mask

    def _out_byte(self, value: int) -> None:
        self._check_memory()
        shift = 8 * self.bsel
        self.sp[self.spa] = self.sp[self.spa] & ~(0xFF << shift) | (value & 0xFF) << shift

    def _out_bsel(self, value: int) -> None:
        self.bsel = value & 1

    def _out_acca(self, value: int) -> None:
        self.acca = value % len(self.acc)

    def _out_timer_high(self, value: int) -> None:
        if self.armed_at is None:
            self.timer = self.timer & 0xFFFF | value << 16

    def _out_timer_low(self, value: int) -> None:
        self.timer = self.timer & ~0xFFFF | value
        self.armed_at = self.cycle

    def _out_timer_off(self, value: int) -> None:
        if value & 1:
            self.timer, self.armed_at = self._time(), None
        self.endless, self.expired = bool(value & 2), False

    def _out_trap(self, value: int) -> None:
        self.trap = bool(value & 1)

    def _out_ready(self, value: int) -> None:
        self.ready = True

    def _out_finish(self, value: int) -> None:
        assert value in (1, 2)
        self._check_memory()
        self.busy, self.done, self.failed = False, value == 1, value == 2

    def _out_trace(self, value: int) -> None:
        index = self.ports[Port.TRXL] | self.ports[Port.TRXH] << 16
        self.trace.append((value & 15, value >> 4 & 15, index, self.cycle))

    def _out_dma(self, value: int) -> None:
        self._check_memory()
        beats = (value & 0xFF) + 1
        address = self.ports[Port.DMAL] | self.ports[Port.DMAH] << 16
        first = 4 * (self.ports[Port.DMAV] & self._vectors_mask)
        assert address % _BEAT == 0, f"address {address:#x}"
        assert beats <= self.config.burst_beats, f"{beats} beats"
        assert address // 4096 == (address + beats * _BEAT - 1) // 4096, "across a boundary"
        offset, size = address - self.base, beats * _BEAT
        inside = 0 <= offset and offset + size <= len(self.memory)
        offsets = range(offset, offset + size, _BEAT)
        self.dma_error = not inside or any(beat in self.bad for beat in offsets)
        if value >> 15:
            self.writes.append((offset, beats))
            if inside:
                data = np.array(self.sp[first : first + 4 * beats], "<u2").view(np.uint8)
                for at in offsets:
                    if at not in self.bad:
                        self.memory[at : at + _BEAT] = data[at - offset : at - offset + _BEAT]
        else:
            self.reads.append((offset, beats))
            words: Iterable[int] = [0xDEAD] * (4 * beats)
            if inside:
                words = self.memory[offset : offset + size].view("<u2").tolist()
            self.sp[first : first + 4 * beats] = words
        self.dma_until = self._from_now(
            self.latency + _WRITE_CYCLES + beats * max(self.interval, _WRITE_INTERVAL)
            if value >> 15
            else self.latency + _READ_CYCLES + (beats - 1) * self.interval
        )

    def _from_now(self, cycles: int) -> int:
        """Return when the conditions stop to say "busy", ``cycles`` after the OUT of now."""
        return self.cycle + INSTRUCTION_CYCLES + cycles - _LOOK_CYCLES

    def _out_weights(self, value: int) -> None:
        self._check_array()
        self.place_of_weights = value & self._vectors_mask

    def _out_array(self, value: int) -> None:
        self._check_memory()
        p, config = self.ports, self.config

        def vector(place: int) -> np.ndarray:
            words = np.array(self.sp[4 * place : 4 * place + 4], "<u2")
            return words.view(np.int8).astype(np.int64)

        weights = vector(self.place_of_weights)
        self.place_of_weights = (self.place_of_weights + 1) & self._vectors_mask
        first = _signed(p[Port.AA0H] << 16 | p[Port.AA0L], _PLACE_BITS)
        row_step = (p[Port.ARSH] & 15) << 16 | p[Port.ARSL]
        h, w0 = _signed(p[Port.AH0], 16), _signed(p[Port.AW0], 16)
        padding = int(weights.sum()) * _signed(p[Port.APAD], 8)
        rows, cols, step = p[Port.AROWS], p[Port.ACOLS], p[Port.ASW]
        accumulator = p[Port.AACC]
        pixels = (p[Port.AP] + 1) * (p[Port.AQ] + 1)
        self.array_until = self._from_now(_PASS_CYCLES + pixels)
        self.array_error = False
        if not self.compute:
            return
        products: dict[int, int] = {}
        for _ in range(p[Port.AP] + 1):
            place, w = first, w0
            for _ in range(p[Port.AQ] + 1):
                if 0 <= h < rows and 0 <= w < cols:
                    where = place % (1 << _PLACE_BITS)
                    if where >= config.ifm_depth:
                        self.array_error = True
                        where = 0
                    if where not in products:
                        products[where] = int(vector(where) @ weights)
                    found = products[where]
                else:
                    found = padding
                before = 0 if value & 1 else self.acc[accumulator]
                self.acc[accumulator] = _signed(before + found, 32)
                accumulator = (accumulator + 1) % len(self.acc)
                place, w = place + step, w + step
            first, h = first + row_step, h + p[Port.ASH]

    def _out_drain(self, value: int) -> None:
        self._check_memory()
        p = self.ports
        bias = _signed(p[Port.QB2] << 32 | p[Port.QB1] << 16 | p[Port.QB0], SUM_BITS)
        multiplier, shift = _signed(p[Port.QM], 16), p[Port.QS] & 63
        low, high = _signed(p[Port.QLOW], 8), _signed(p[Port.QHIGH], 8)
        count = (value & 0xFF) + 1
        each = _DRAIN_CYCLES + shift // _DRAIN_STRIDE + shift % _DRAIN_STRIDE
        for _ in range(count if self.compute else 0):
            acc = self.acc[self.acca]
            assert SUM_MIN <= acc * multiplier + bias <= SUM_MAX
            self._out_byte(requantize(acc, multiplier, bias, shift, low=low, high=high))
            self.acca = (self.acca + 1) % len(self.acc)
            self.spa = (self.spa + 4 * p[Port.QSTEP]) & self._words_mask
        self.drain_until = self._from_now(_DRAIN_START + count * each)
