"""The golden machine: executes a program instruction by instruction on byte arrays.

It knows nothing of the graph; all it has is the tables of :mod:`intaglio.spec.isa`, the
requantisation of :mod:`intaglio.spec.arith` and a memory. For a program without races its final
memory is that of the hardware, byte for byte.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from intaglio.spec import isa
from intaglio.spec.arith import SUM_BITS, requantize, wrap
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Buffer, Error, Function, Unit
from intaglio.spec.program import Program
from intaglio_sim.golden import places

__all__ = ["Event", "GoldenMachine", "MachineError", "Result", "check_fields"]

_BITS_ACC = 32
_BITS_MULTIPLIER = 16
#: Bits of ``wait`` and ``signal``, as tuples of units.
_BIT_UNITS = tuple(
    tuple(unit for unit in isa.UNITS if bits >> unit & 1) for bits in range(1 << len(isa.UNITS))
)


class MachineError(Exception):
    """An instruction stops the machine with ``code``."""

    def __init__(self, code: Error, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code


@dataclass(frozen=True)
class Event:
    """An instruction that has finished.

    ``order`` counts the events of a run, ``index`` is its place in the program.
    """

    order: int
    index: int
    name: str
    unit: Unit


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    ``memory``: uint8, the memory afterwards. ``error``, ``error_instruction``: as in the registers
    of the same names. ``error_text``: what exactly was wrong, "" without an error.
    ``instructions_executed``: finished, ``end`` not counted. ``events``: in the order in which they
    finished here; the hardware may finish instructions of different units in another order.
    """

    memory: np.ndarray
    error: Error
    error_instruction: int
    error_text: str
    instructions_executed: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class _Entry:
    """A decoded instruction in a queue."""

    index: int
    instruction: isa.Instruction
    fields: Mapping[str, int]


def check_fields(instruction: isa.Instruction, fields: Mapping[str, int]) -> None:
    """Raise MachineError (FIELD, then TOKEN) for what the sequencer refuses when it decodes."""
    for field in instruction.fields:
        value = fields[field.name]
        if not field.low <= value <= field.high:
            raise MachineError(
                Error.FIELD,
                f"{instruction.name}.{field.name} must be in [{field.low}, {field.high}], "
                f"not {value}",
            )
    for name in ("wait", "signal"):
        bits = fields[name]
        if instruction.unit is None and bits:
            raise MachineError(Error.TOKEN, f"{instruction.name}.{name} must be 0, not {bits}")
        if instruction.unit is not None and bits >> instruction.unit & 1:
            raise MachineError(Error.TOKEN, f"{instruction.name}.{name} names its own unit")


def _is_single(fields: Mapping[str, int]) -> bool:
    """Return whether a vector instruction makes one output of one chunk."""
    return fields["chunks"] == fields["out_rows"] == fields["out_cols"] == 1


class GoldenMachine:
    """A machine with the buffers of ``config``.

    After :meth:`run` the buffers can be read: ``ifm``, ``wgt``, ``vec``, ``ofm`` int8 (depth, R),
    ``prm`` uint8 (prm_depth, 8), ``acc`` int32 (2, acc_depth, K). Every run starts with buffers
    full of the byte ``fill``: a program whose result depends on it reads what nobody wrote.
    """

    def __init__(self, config: AcceleratorConfig, *, fill: int = 0) -> None:
        self.config = config
        self.fill = int(np.uint8(fill))
        self._execute = {
            "load": self._load,
            "array": self._array,
            "vector": self._vector,
            "store": self._store,
        }
        self.reset(np.zeros(0, np.uint8))

    def reset(self, memory: np.ndarray) -> None:
        """Fill all buffers and use ``memory`` (uint8, a multiple of R bytes) from now on."""
        config = self.config
        self.memory = memory

        def filled(*shape: int) -> np.ndarray:
            return np.full(shape, self.fill, np.uint8)

        self.ifm = filled(config.ifm_depth, config.R).view(np.int8)
        self.wgt = filled(config.wgt_depth, config.R).view(np.int8)
        self.vec = filled(config.vec_depth, config.R).view(np.int8)
        self.ofm = filled(config.ofm_depth, config.R).view(np.int8)
        self.prm = filled(config.prm_depth, 8)
        self.acc = filled(2, config.acc_depth, config.K, 4).view(np.int32)[..., 0]
        # Function and values (L,) of the last vector instruction, if one may go on with them.
        self._held: tuple[Function, np.ndarray] | None = None

    def execute(self, name: str, fields: Mapping[str, int]) -> None:
        """Execute one instruction on the buffers and the memory, without tokens.

        ``fields`` has every field of the table and is within its ranges. After an error the buffers
        and the memory hold what was written before it: ``load`` and ``store`` write up to it,
        ``array`` and ``vector`` write nothing (hardware may have written a part).

        Raises
        ------
        MachineError
            FIELD, BUFFER or MEMORY.
        """
        self._execute[name](fields)

    def run_program(self, program: Program, memory: np.ndarray | None = None) -> Result:
        """Run ``program`` on ``memory`` (default: a copy of its own image); see :meth:`run`."""
        program.check_config(self.config)
        return self.run(
            program.memory.copy() if memory is None else memory,
            program.program_base,
            program.length,
        )

    def run(
        self,
        memory: np.ndarray,
        program_base: int,
        program_length: int,
        memory_bytes: int | None = None,
        *,
        observer: Callable[[int, isa.Instruction, Mapping[str, int]], None] | None = None,
    ) -> Result:
        """Run the program at ``program_base`` until ``end`` or the first error.

        Units take turns, in the order of their numbers, each running one instruction whose tokens
        are there, after the sequencer has put one instruction into a queue. An instruction runs as
        a whole.

        Parameters
        ----------
        memory
            uint8, changed in place.
        program_base
            Byte offset of the first instruction.
        program_length
            Instructions, ``end`` included.
        memory_bytes
            Bytes that the program may use; default: all of ``memory``.
        observer
            Called after each instruction with its index, instruction and fields.

        Raises
        ------
        ValueError
            ``memory`` is not uint8 or shorter than ``memory_bytes``. Errors of the program do not
            raise: they are in the result.
        """
        if memory.dtype != np.uint8 or memory.ndim != 1:
            raise ValueError(f"memory must be one row of uint8, not {memory.dtype} {memory.shape}")
        size = len(memory) if memory_bytes is None else memory_bytes
        if not 0 <= size <= len(memory):
            raise ValueError(f"memory_bytes must be in [0, {len(memory)}], not {size}")
        self.reset(memory[:size])
        events: list[Event] = []

        def stopped(error: Error, index: int, text: str) -> Result:
            return Result(memory, error, index, text, len(events), tuple(events))

        if size % self.config.R:
            return stopped(Error.MEMORY, 0, f"memory_bytes {size} is no multiple of R")
        if (
            program_length < 1
            or program_base % isa.INSTRUCTION_BYTES
            or program_base + program_length * isa.INSTRUCTION_BYTES > size
        ):
            return stopped(
                Error.PROGRAM, 0, f"{program_length} instructions at {program_base} of {size} bytes"
            )

        queues: dict[Unit, deque[_Entry]] = {unit: deque() for unit in isa.UNITS}
        tokens = {(a, b): 0 for a in isa.UNITS for b in isa.UNITS}
        index, at_end = 0, False
        pending: _Entry | None = None
        while True:
            progress = False
            # The sequencer: one instruction into its queue.
            if not at_end:
                if pending is None:
                    if index == program_length:
                        return stopped(Error.PROGRAM, index, "the program has no end")
                    try:
                        pending = self._fetch(program_base, index)
                    except MachineError as error:
                        return stopped(error.code, index, str(error))
                unit = pending.instruction.unit
                if unit is None:
                    at_end, pending, progress = True, None, True
                elif len(queues[unit]) < self.config.queue_depth:
                    queues[unit].append(pending)
                    index, pending, progress = index + 1, None, True
            # The units: one instruction each.
            for unit, queue in queues.items():
                if not queue:
                    continue
                entry = queue[0]
                sources = _BIT_UNITS[entry.fields["wait"]]
                if not all(tokens[source, unit] for source in sources):
                    continue
                queue.popleft()
                for source in sources:
                    tokens[source, unit] -= 1
                try:
                    self.execute(entry.instruction.name, entry.fields)
                except MachineError as error:
                    return stopped(error.code, entry.index, str(error))
                if observer is not None:
                    observer(entry.index, entry.instruction, entry.fields)
                for target in _BIT_UNITS[entry.fields["signal"]]:
                    if tokens[unit, target] == isa.TOKEN_MAX:
                        return stopped(
                            Error.TOKEN,
                            entry.index,
                            f"TOKEN: more than {isa.TOKEN_MAX} tokens from {unit.name.lower()} to "
                            f"{target.name.lower()}",
                        )
                    tokens[unit, target] += 1
                events.append(Event(len(events), entry.index, entry.instruction.name, unit))
                progress = True
            waiting = [queue[0] for queue in queues.values() if queue]
            if at_end and not waiting:
                return stopped(Error.NONE, 0, "")
            if not progress:
                heads = ", ".join(f"{head.instruction.name} {head.index}" for head in waiting)
                return stopped(Error.DEADLOCK, waiting[0].index, f"DEADLOCK: waiting: {heads}")

    def _fetch(self, program_base: int, index: int) -> _Entry:
        start = program_base + index * isa.INSTRUCTION_BYTES
        try:
            instruction, fields = isa.decode(self.memory[start : start + isa.INSTRUCTION_BYTES])
        except ValueError as error:
            raise MachineError(Error.OPCODE, str(error)) from None
        check_fields(instruction, fields)
        return _Entry(index, instruction, fields)

    # ---------------------------------------------------------------------------------- units

    def _check(self, name: str, found: np.ndarray, depth: int) -> None:
        if found.size and (found.min() < 0 or found.max() >= depth):
            raise MachineError(
                Error.BUFFER,
                f"places [{found.min()}, {found.max()}] of {name}, which has {depth}",
            )

    def _load(self, f: Mapping[str, int]) -> None:
        R = self.config.R
        pairs = self.config.params_per_vector if f["buffer"] == Buffer.PRM else 1
        for wrong, text in (
            (f["vector_step"] > R, f"vector_step must be at most {R}, not {f['vector_step']}"),
            (f["lead"] > 7 * R, f"lead must be at most {7 * R}, not {f['lead']}"),
            (f["base"] % pairs, f"base must be a multiple of {pairs}, not {f['base']}"),
        ):
            if wrong:
                raise MachineError(Error.FIELD, f"load.{text}")
        name = Buffer(f["buffer"]).name
        # PRM as rows of one vector, like the others.
        target = getattr(self, name.lower()).view(np.int8).reshape(-1, R)
        base, vectors = f["base"] // pairs, f["vectors"]
        addresses = places.row_addresses(f)

        # Vectors before the error are written: whole rows, and in the last one as far as they fit.
        bad = np.flatnonzero(addresses + f["row_bytes"] > len(self.memory))
        rows = int(bad[0]) if bad.size else len(addresses)
        count = min(rows * vectors, max(len(target) - base, 0))
        need = -(-count // vectors)  # rows
        used = places.used_bytes(self.config, f)
        padded = np.full((need, (vectors - 1) * f["vector_step"] + R), f["pad_code"], np.int8)
        # A row with its padding; column 0 is byte -lead.
        if used:
            bytes_of_row = addresses[:need, None] + np.arange(used)
            padded[:, f["lead"] : f["lead"] + used] = self.memory[bytes_of_row].view(np.int8)
        columns = np.arange(vectors)[:, None] * f["vector_step"] + np.arange(R)
        data = padded[:, columns].reshape(-1, R)
        target[base : base + count] = data[:count]

        if count < rows * vectors:
            raise MachineError(
                Error.BUFFER, f"vector {base + count} of {name}, which has {len(target)}"
            )
        if bad.size:
            raise MachineError(
                Error.MEMORY,
                f"{f['row_bytes']} bytes at {addresses[rows]} of {len(self.memory)} bytes",
            )

    def _array(self, f: Mapping[str, int]) -> None:
        R, K = self.config.R, self.config.K
        pixels = f["out_rows"] * f["out_cols"]
        if pixels > self.config.acc_depth:
            raise MachineError(
                Error.BUFFER,
                f"{pixels} pixels in an accumulator bank of {self.config.acc_depth}",
            )
        window = places.array_window(f)
        weights = places.weight_vectors(self.config, f)
        self._check("WGT", np.array([f["wgt_base"], f["wgt_base"] + weights - 1]), len(self.wgt))
        blocks = f["ifm_base"] + np.arange(f["blocks"], dtype=np.int64) * f["ifm_plane"]
        met = window.place[window.inside]
        if met.size:
            ends = np.array([blocks.min() + met.min(), blocks.max() + met.max()])
            self._check("IFM", ends, len(self.ifm))
        # (P, Q, blocks, R, S), in the order of the weights behind the pixels.
        where = window.place[:, :, None] + blocks[:, None, None]
        inside = np.broadcast_to(window.inside[:, :, None], where.shape)
        ifm = self.ifm[np.where(inside, where, 0)]  # (P, Q, blocks, R, S, lanes)
        ifm[~inside] = f["pad_code"]
        wgt = self.wgt[f["wgt_base"] : f["wgt_base"] + weights].reshape(-1, K, R)
        # float64 products are exact: at most 2**16 * 2**5 terms below 2**15 stay below 2**53.
        total = ifm.reshape(pixels, -1).astype(np.float64) @ wgt.transpose(0, 2, 1).reshape(
            -1, K
        ).astype(np.float64)
        total = total.astype(np.int64)
        bank = self.acc[f["acc_bank"], :pixels]
        if f["accumulate"]:
            total += bank
        bank[:] = wrap(total, _BITS_ACC)

    def _parameters(self, f: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return multipliers and biases for each chunk and lane: (chunks, 1, 1, L)."""
        where = places.parameter_places(self.config, f)
        self._check("PRM", where, len(self.prm))
        words = self.prm.view("<i8")[where, 0].astype(np.int64)[:, None, None]
        # The multiplier is the lowest 16 bits, the bias the 48 above; >> keeps the sign.
        return wrap(words, _BITS_MULTIPLIER), words >> (64 - SUM_BITS)

    def _check_vector(self, f: Mapping[str, int]) -> None:
        config, function = self.config, Function(f["function"])
        wrong = None
        if f["residual"] and function not in (Function.DRAIN, Function.SUM):
            wrong = f"residual must be 0 for {function.name.lower()}"
        if function == Function.ARGMAX:
            pass  # the lanes follow from the output column
        elif f["lane"] % config.drain_lanes or f["lane"] >= config.R:
            wrong = f"lane must be a multiple of {config.drain_lanes} below {config.R}"
        if function == Function.DRAIN and f["chunks"] * config.drain_lanes > config.K:
            wrong = f"chunks must be at most {config.K // config.drain_lanes} to drain"
        if function == Function.RESIZE:
            for axis in ("h", "w"):
                if f[f"step_{axis}"] > f[f"den_{axis}"] or f[f"frac_{axis}"] >= f[f"den_{axis}"]:
                    wrong = f"step_{axis} or frac_{axis} is too large for den_{axis}"
            most = isa.den_h_max(f["den_w"])
            if f["den_h"] > most:
                wrong = f"den_h must be at most {most} with den_w = {f['den_w']}"
        if f["accumulate"] and not (
            self._held is not None and self._held[0] == function and _is_single(f)
        ):
            wrong = "accumulate needs a max or sum of one output of one chunk, after the same"
        if wrong:
            raise MachineError(Error.FIELD, f"vector.{wrong}")

    def _vector(self, f: Mapping[str, int]) -> None:
        config, function = self.config, Function(f["function"])
        L = config.drain_lanes
        self._check_vector(f)
        out = places.output_places(config, f)
        self._check("OFM", out, len(self.ofm))
        if function == Function.ARGMAX:
            columns = np.arange(f["out_cols"]) % config.R
            self.ofm[out[0], columns] = self._argmax(f)
            self._held = None
            return

        lanes = (f["lane"] + np.arange(f["chunks"] * L, dtype=np.int64)).reshape(-1, L)
        blocks = lanes[:, 0] // config.R
        lanes = (lanes % config.R)[:, None, None]  # (chunks, 1, 1, L)
        residual = np.zeros((), np.int64)
        if f["residual"]:
            where = places.residual_places(config, f)
            self._check("VEC", where, len(self.vec))
            residual = self.vec[where[..., None], lanes].astype(np.int64)
        if function == Function.DRAIN:
            value = self._drain(f)
        elif function == Function.RESIZE:
            value = self._resize(f, blocks, lanes)
        else:
            value = self._pool(f, blocks, lanes)
        pools = function in (Function.MAX, Function.SUM)
        held = (function, value.copy()) if pools and _is_single(f) else None
        if function == Function.MAX:
            y = value.clip(f["low"], f["high"])
        else:
            multiplier, bias = self._parameters(f)
            y = requantize(
                value,
                multiplier,
                bias,
                f["shift"],
                residual=residual,
                residual_shift=f["res_shift"],
                low=f["low"],
                high=f["high"],
            )
        # (chunks, P, Q, L); where a place comes twice the last one stays.
        self.ofm[out[..., None], lanes] = y.astype(np.int8)
        self._held = held

    def _drain(self, f: Mapping[str, int]) -> np.ndarray:
        L, pixels = self.config.drain_lanes, f["out_rows"] * f["out_cols"]
        if pixels > self.config.acc_depth:
            raise MachineError(
                Error.BUFFER,
                f"{pixels} pixels in an accumulator bank of {self.config.acc_depth}",
            )
        acc = self.acc[f["acc_bank"], :pixels, : f["chunks"] * L].astype(np.int64)
        acc = acc.reshape(f["out_rows"], f["out_cols"], f["chunks"], L)
        return acc.transpose(2, 0, 1, 3)

    def _source(
        self, f: Mapping[str, int], blocks: np.ndarray, inside: np.ndarray, met: np.ndarray
    ) -> np.ndarray:
        """Return the vectors of VEC for each block at ``inside`` (P, Q): (blocks, P, Q), checked
        where ``met``.
        """
        planes = f["src_base"] + blocks * f["src_plane"]
        if met.any():
            used = inside[met]
            ends = np.array([planes.min() + used.min(), planes.max() + used.max()])
            self._check("VEC", ends, len(self.vec))
        return np.where(met, planes[:, None, None] + inside, 0)

    def _pool(self, f: Mapping[str, int], blocks: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        window = places.vector_window(f)
        combine = np.maximum if f["function"] == Function.MAX else np.add
        result: np.ndarray | None = None
        if f["out_rows"] == f["out_cols"] == 1:
            # One window, which may be large: its taps at once.
            met, inside = window.inside[0, 0], window.place[0, 0]
            where = self._source(f, blocks, inside, met)
            codes = self.vec[where[..., None], lanes].astype(np.int64)
            codes = np.where(met[..., None], codes, f["pad_code"])
            codes = combine.reduce(codes, axis=(1, 2), keepdims=True)
            if f["accumulate"]:
                assert self._held is not None  # checked before
                codes = combine(codes, self._held[1])
            return codes if f["function"] == Function.MAX else wrap(codes, _BITS_ACC)
        for r in range(f["kernel_h"]):
            for s in range(f["kernel_w"]):
                met = window.inside[:, :, r, s]
                where = self._source(f, blocks, window.place[:, :, r, s], met)
                codes = self.vec[where[..., None], lanes].astype(np.int64)
                codes = np.where(met[..., None], codes, f["pad_code"])
                result = codes if result is None else combine(result, codes)
        assert result is not None  # kernels have at least one row and column
        return result

    def _resize(self, f: Mapping[str, int], blocks: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        rows, row_weights = places.resize_positions(f, "h")
        cols, col_weights = places.resize_positions(f, "w")
        total = np.zeros((), np.int64)
        for i in (0, 1):
            for j in (0, 1):
                inside = rows[:, i, None] * f["src_cols"] + cols[:, j]  # (P, Q)
                where = self._source(f, blocks, inside, np.ones_like(inside, bool))
                weight = row_weights[:, i, None] * col_weights[:, j]
                total = total + self.vec[where[..., None], lanes] * weight[..., None]
        return total

    def _argmax(self, f: Mapping[str, int]) -> np.ndarray:
        channels = np.arange(f["channels"], dtype=np.int64)
        window = places.argmax_places(f)
        if not window.inside.all():
            raise MachineError(Error.BUFFER, "argmax outside of its source tile")
        blocks = np.arange(-(-f["channels"] // self.config.R), dtype=np.int64)
        inside = window.place[:, :, 0, 0]
        where = self._source(f, blocks, inside, np.ones_like(inside, bool))
        # (channels, P, Q); numpy's argmax takes the first of equal ones.
        codes = self.vec[
            where[channels // self.config.R], (channels % self.config.R)[:, None, None]
        ]
        index = codes.argmax(0) >> 8 * f["high_byte"]
        return index.astype(np.uint8).view(np.int8)

    def _store(self, f: Mapping[str, int]) -> None:
        R = self.config.R
        for name in ("address", "plane_step", "row_step"):
            if f[name] % R:
                raise MachineError(
                    Error.MEMORY, f"store.{name} must be a multiple of {R}, not {f[name]}"
                )
        addresses = places.row_addresses(f)
        size = f["vectors"] * R
        # Rows before the error are written; the memory goes before the buffer.
        ends = f["base"] + f["vectors"] * np.arange(1, len(addresses) + 1)
        outside = addresses + size > len(self.memory)
        bad = np.flatnonzero(outside | (ends > len(self.ofm)))
        rows = int(bad[0]) if bad.size else len(addresses)
        vectors = self.ofm[f["base"] : f["base"] + rows * f["vectors"]]
        data = vectors.view(np.uint8).reshape(rows, size)
        # Rows may overlap; the last one stays.
        self.memory[addresses[:rows, None] + np.arange(size)] = data
        if bad.size and outside[rows]:
            raise MachineError(
                Error.MEMORY, f"{size} bytes at {addresses[rows]} of {len(self.memory)} bytes"
            )
        if bad.size:
            raise MachineError(
                Error.BUFFER, f"vectors up to {ends[rows] - 1} of OFM, which has {len(self.ofm)}"
            )
