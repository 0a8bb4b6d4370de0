"""The instruction set: one table for encoder, decoder, golden machine, RTL and documentation.

An instruction is 64 bytes (512 bits, little endian). Its first 16 bits are the same for all of
them: the opcode, the tokens it waits for and the tokens it signals. The machine has four units that
run side by side, each with its own queue and in its own order:

===== ====== =================================================================
index unit   what it does
===== ====== =================================================================
0     load   memory -> a scratchpad (IFM, WGT, VEC, PRM)
1     array  IFM x WGT -> an accumulator bank
2     vector an accumulator bank or VEC -> requantise -> OFM
3     store  OFM -> memory
===== ====== =================================================================

*Tokens.* For each ordered pair of units there is a counter. An instruction starts when, for every
bit ``u`` set in ``wait``, the counter (unit u -> own unit) is not zero; it then decrements those
counters. When the instruction has finished (its last effect is visible to the other units: the last
word is written; for ``store`` the last write response has arrived), it increments the counter (own
unit -> u) for every bit ``u`` in ``signal``. Counters start at zero and hold TOKEN_MAX at most.

*Buffers.* IFM, WGT, VEC and OFM hold vectors of R bytes, PRM holds pairs (multiplier int16, bias
int48), ACC has two banks of ``acc_depth`` pixels x K int32. Addresses count vectors (IFM, WGT, VEC,
OFM) or pairs (PRM).

*Memory.* Addresses in instructions are byte offsets from the register ``memory_base``; what lies at
or beyond ``memory_bytes`` is out of bounds. Feature maps lie in blocks of R channels: byte
``((c // R) * H + h) * W * R + w * R + c % R``.

*Errors.* The first error stops the machine (:class:`Error`); nothing is ever written outside of a
buffer or of the memory.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

__all__ = [
    "ARRAY",
    "DEN_H_MAX",
    "END",
    "HEADER",
    "INSTRUCTIONS",
    "INSTRUCTION_BITS",
    "INSTRUCTION_BYTES",
    "LOAD",
    "STORE",
    "TOKEN_MAX",
    "UNITS",
    "VECTOR",
    "Batch",
    "Buffer",
    "Error",
    "Field",
    "Function",
    "Instruction",
    "Unit",
    "decode",
    "decode_all",
    "den_h_max",
    "encode",
    "encode_all",
    "opcode_of",
]

INSTRUCTION_BYTES = 64
INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES
#: Largest value of a token counter; one more signal is the error TOKEN.
TOKEN_MAX = 255


class Unit(enum.IntEnum):
    """The units, and the bit of each in ``wait`` and ``signal``."""

    LOAD = 0
    ARRAY = 1
    VECTOR = 2
    STORE = 3


UNITS = tuple(Unit)


class Buffer(enum.IntEnum):
    """Destinations of ``load``."""

    IFM = 0
    WGT = 1
    VEC = 2
    PRM = 3


class Function(enum.IntEnum):
    """Functions of ``vector``."""

    DRAIN = 0
    MAX = 1
    SUM = 2
    RESIZE = 3
    ARGMAX = 4


class Error(enum.IntEnum):
    """Error codes in the register ``error``, with a ``description`` each. The first error wins."""

    description: str

    def __new__(cls, code: int, description: str = "") -> "Error":
        """Make the member ``code``; ``Error(code)`` finds it again."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.description = description
        return member

    NONE = 0, "none"
    OPCODE = 1, "unknown opcode, or a reserved bit that is set"
    FIELD = 2, "a field outside the range that its table gives"
    BUFFER = 3, "an access outside a scratchpad or accumulator bank"
    MEMORY = 4, "an access outside the memory, or a misaligned address"
    BUS = 5, "the memory bus answered with an error"
    DEADLOCK = 6, "every unit waits for a token that nobody can signal"
    TOKEN = (
        7,
        "a token counter overflowed, or an instruction waits for or signals its own unit",
    )
    PROGRAM = 8, "the program ended without ``end``, or its base or length is not usable"
    TIMEOUT = 9, "more cycles than the register ``cycle_limit`` allows"


@dataclass(frozen=True)
class Field:
    """One bit field: its ``width`` in bits, what it means, and the range that hardware accepts.

    ``signed`` fields are two's complement. ``minimum`` and ``maximum`` default to what the width
    can hold; a value outside gives the error FIELD. A maximum of 0 with ``minimum`` 0 would be a
    reserved field; there is none.
    """

    name: str
    width: int
    description: str
    signed: bool = False
    minimum: int | None = None
    maximum: int | None = None

    @property
    def low(self) -> int:
        """Value of the smallest number accepted."""
        if self.minimum is not None:
            return self.minimum
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Value of the largest number accepted."""
        if self.maximum is not None:
            return self.maximum
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1


#: The first 16 bits of every instruction.
HEADER = (
    Field("opcode", 8, "which instruction"),
    Field("wait", 4, "bit u: wait for a token from unit u, and take it"),
    Field("signal", 4, "bit u: when finished, give a token to unit u"),
)


@dataclass(frozen=True)
class Instruction:
    """An instruction: name, opcode, the unit that runs it (None: the sequencer) and the fields
    after the header.

    ``errors``: what stops the machine while it runs, besides what is the same for all: OPCODE, a
    FIELD outside its range, TOKEN.
    """

    name: str
    opcode: int
    unit: Unit | None
    fields: tuple[Field, ...]
    action: str
    errors: tuple[tuple[Error, str], ...] = ()

    def __post_init__(self) -> None:
        if self.width > INSTRUCTION_BITS:
            raise ValueError(f"{self.name} has {self.width} bits, more than {INSTRUCTION_BITS}")

    @property
    def width(self) -> int:
        """Value of the bits used, header included; the rest of the 512 is reserved and zero."""
        return sum(field.width for field in HEADER + self.fields)

    def offsets(self) -> dict[str, tuple[Field, int]]:
        """Return name -> (field, offset of its lowest bit), header included, in order."""
        result, offset = {}, 0
        for field in HEADER + self.fields:
            result[field.name] = (field, offset)
            offset += field.width
        return result


END = Instruction(
    "end",
    0x0F,
    None,
    (),
    "Wait until all units are idle, then finish: status done, interrupt. ``wait`` and ``signal``"
    " are zero.",
)

LOAD = Instruction(
    "load",
    0x01,
    Unit.LOAD,
    (
        Field("buffer", 8, "destination: 0 IFM, 1 WGT, 2 VEC, 3 PRM", maximum=3),
        Field("pad_code", 8, "byte put where a row has no data", signed=True),
        Field("address", 32, "memory address of the first byte of the first row"),
        Field("plane_step", 32, "bytes from plane to plane"),
        Field("row_step", 32, "bytes from row to row"),
        Field("base", 16, "first vector (for PRM: first pair, a multiple of R / 8) to write"),
        Field("planes", 16, "planes to copy", minimum=1),
        Field("rows", 16, "rows in a plane", minimum=1),
        Field("vectors", 16, "vectors written for each row", minimum=1),
        Field(
            "vector_step",
            8,
            "bytes from vector to vector in a row, 1 to R; R copies densely",
            minimum=1,
        ),
        Field(
            "lead", 8, "bytes of padding before the first byte of a row, 0 to R * 7", maximum=224
        ),
        Field(
            "row_bytes",
            32,
            "bytes of a row that exist in memory, 1 to 2**20",
            minimum=1,
            maximum=1 << 20,
        ),
    ),
    "For each plane and row: vector i is the bytes ``i * vector_step - lead ... + R - 1`` of the"
    " row, where a byte "
    "outside ``[0, row_bytes)`` is ``pad_code``; written to consecutive places from ``base``. "
    "Only the bytes "
    "``[0, row_bytes)`` of a row are read from memory, and all of them must lie inside it. Any "
    "byte alignment.",
    (
        (
            Error.FIELD,
            "``vector_step`` above R, ``lead`` above 7 * R, or ``base`` no multiple of R / 8 for "
            "PRM",
        ),
        (Error.MEMORY, "a row that does not lie in the memory; rows before it have been loaded"),
        (Error.BUFFER, "a vector beyond the destination; those before it have been written"),
        (Error.BUS, "a beat that the bus answered with an error"),
    ),
)

ARRAY = Instruction(
    "array",
    0x02,
    Unit.ARRAY,
    (
        Field("ifm_base", 16, "first vector of the tile in IFM"),
        Field("ifm_rows", 16, "rows of the tile", minimum=1, maximum=4095),
        Field("ifm_cols", 16, "columns of the tile", minimum=1, maximum=4095),
        Field("ifm_plane", 16, "vectors from channel block to channel block"),
        Field("blocks", 16, "channel blocks of R channels", minimum=1),
        Field("kernel_h", 8, "rows of the kernel", minimum=1),
        Field("kernel_w", 8, "columns of the kernel", minimum=1),
        Field("stride_h", 8, "tile rows from output row to output row"),
        Field("stride_w", 8, "tile columns from output column to output column"),
        Field("dilation_h", 8, "tile rows from kernel row to kernel row"),
        Field("dilation_w", 8, "tile columns from kernel column to kernel column"),
        Field(
            "offset_h",
            16,
            "tile row of output row 0, kernel row 0",
            signed=True,
            minimum=-4096,
            maximum=4095,
        ),
        Field(
            "offset_w",
            16,
            "tile column of output column 0, kernel column 0",
            signed=True,
            minimum=-4096,
            maximum=4095,
        ),
        Field("out_rows", 16, "output rows P", minimum=1, maximum=4095),
        Field("out_cols", 16, "output columns Q; P * Q <= acc_depth", minimum=1, maximum=4095),
        Field("wgt_base", 16, "first vector of the weights in WGT"),
        Field("acc_bank", 8, "accumulator bank", maximum=1),
        Field("accumulate", 8, "1: add to the bank, 0: start from zero", maximum=1),
        Field("pad_code", 8, "code in place of positions outside the tile", signed=True),
    ),
    "acc[bank][p * Q + q][k] (+)= sum over block b, kernel row r, kernel column s, lane i of "
    "IFM[ifm_base + b * ifm_plane + h * ifm_cols + w][i] * WGT[wgt_base + ((b * kernel_h + r) * "
    "kernel_w + s) * K + k][i] "
    "with h = p * stride_h + r * dilation_h + offset_h, w alike; outside [0, ifm_rows) x [0, "
    "ifm_cols) every lane of the IFM "
    "vector is ``pad_code``. int32 sums that wrap. Signals when the tile is complete in the bank.",
    (
        (
            Error.BUFFER,
            "``out_rows * out_cols`` above ``acc_depth``, weights beyond WGT, or a position inside "
            "the tile that lies beyond IFM; the bank's content is undefined then",
        ),
    ),
)

#: Largest vertical denominator of *resize* for horizontal ones up to a bound, (bound, largest): the
#: products, which are weights, have 17 bits.
DEN_H_MAX = ((64, 2047), (128, 1023), (255, 511))


def den_h_max(den_w: int) -> int:
    """Return the largest vertical denominator of *resize* beside ``den_w``, in [1, 255]."""
    return next(largest for bound, largest in DEN_H_MAX if den_w <= bound)


VECTOR = Instruction(
    "vector",
    0x03,
    Unit.VECTOR,
    (
        Field("function", 8, "0 drain, 1 max, 2 sum, 3 resize, 4 argmax", maximum=4),
        Field("residual", 8, "1: add a residual from VEC (drain and sum only)", maximum=1),
        Field("uniform", 8, "1: all lanes use the pair at prm_base", maximum=1),
        Field(
            "lane",
            8,
            "first lane of the output (and of the source in VEC), a multiple of L; below R",
        ),
        Field("chunks", 16, "chunks of L lanes to process; drain: chunks * L <= K", minimum=1),
        Field("src_base", 16, "first vector of the source tile in VEC"),
        Field("src_rows", 16, "rows of the source tile", minimum=1, maximum=4095),
        Field("src_cols", 16, "columns of the source tile", minimum=1, maximum=4095),
        Field("src_plane", 16, "vectors from channel block to channel block of the source"),
        Field("kernel_h", 8, "window rows (max, sum)", minimum=1),
        Field("kernel_w", 8, "window columns (max, sum)", minimum=1),
        Field("stride_h", 8, "source rows from output row to output row (max, sum, argmax)"),
        Field(
            "stride_w", 8, "source columns from output column to output column (max, sum, argmax)"
        ),
        Field(
            "offset_h", 16, "source row of output row 0", signed=True, minimum=-4096, maximum=4095
        ),
        Field(
            "offset_w",
            16,
            "source column of output column 0",
            signed=True,
            minimum=-4096,
            maximum=4095,
        ),
        Field(
            "pad_code", 8, "code in place of positions outside the source (max, sum)", signed=True
        ),
        Field("acc_bank", 8, "accumulator bank (drain)", maximum=1),
        Field("out_rows", 16, "output rows P", minimum=1, maximum=4095),
        Field("out_cols", 16, "output columns Q", minimum=1, maximum=4095),
        Field("res_base", 16, "first vector of the residual in VEC: plane, then pixel p * Q + q"),
        Field("res_plane", 16, "vectors from channel block to channel block of the residual"),
        Field("res_shift", 8, "left shift of the residual", maximum=39),
        Field(
            "prm_base",
            16,
            "first pair of the parameters in PRM: chunk * L + lane, or the one for all",
        ),
        Field("shift", 8, "right shift of the requantisation", maximum=47),
        Field("low", 8, "lower bound of the output", signed=True),
        Field("high", 8, "upper bound of the output", signed=True),
        Field("ofm_base", 16, "first vector of the output in OFM"),
        Field("ofm_plane", 16, "vectors from channel block to channel block"),
        Field("ofm_row_step", 16, "vectors from output row to output row"),
        Field("ofm_col_step", 8, "vectors from output column to output column"),
        Field(
            "den_h",
            16,
            "resize: denominator of the vertical fraction; at most 1023 with den_w > 64, 511 with "
            "den_w > 128",
            minimum=1,
            maximum=2047,
        ),
        Field("den_w", 8, "resize: denominator of the horizontal fraction", minimum=1),
        Field("step_h", 16, "resize: step of the vertical fraction, at most den_h", maximum=2047),
        Field("step_w", 8, "resize: step of the horizontal fraction, at most den_w", maximum=2),
        Field("frac_h", 16, "resize: vertical fraction of output row 0, below den_h", maximum=2046),
        Field("frac_w", 8, "resize: horizontal fraction of output column 0, below den_w"),
        Field("channels", 16, "argmax: channels to compare", minimum=1),
        Field(
            "accumulate",
            8,
            "1: go on with the maximum or sum of the instruction before (max, sum)",
            maximum=1,
        ),
        Field(
            "high_byte", 8, "argmax: 1 writes bits 15 to 8 of the index, 0 its low byte", maximum=1
        ),
    ),
    "For chunk c, output row p, column q: lanes a = lane + c * L ... + L - 1 of channel block a "
    "// R. "
    "*drain*: value = acc[acc_bank][p * Q + q][c * L + j]. *max*, *sum*: maximum or sum over the"
    " window of "
    "VEC[src_base + (a // R) * src_plane + h * src_cols + w][a % R], h = p * stride_h + r + "
    "offset_h (w alike), ``pad_code`` "
    "outside the source; the sum is int32 and wraps. With ``accumulate`` the L values of the "
    "vector instruction before (before its requantisation) belong to the window: a window larger "
    "than VEC is a sequence of instructions with one output of one chunk each. "
    "*resize*: t = frac_h + p * step_h; h = offset_h + t // den_h, f = t % "
    "den_h (w, g alike); value = "
    "sum of the four neighbours (h, h + 1) x (w, w + 1), each index clamped into the source, "
    "weighted "
    "(den_h - f or f) * (den_w - g or g). Then, except for max and argmax, "
    "y = saturate(round_shift(value * m + b + (residual << res_shift), shift), low, high) with "
    "(m, b) = PRM[prm_base + c * L + j] "
    "or PRM[prm_base]; max writes its maximum, limited to [low, high]. Written to lanes a % R of"
    " OFM[ofm_base + (a // R) * "
    "ofm_plane + p * ofm_row_step + q * ofm_col_step]; the other lanes keep their bytes. "
    "*argmax*: lane, chunks and "
    "ofm_col_step are not used; the index (0 ... channels - 1) of the largest code over channels"
    " at source row "
    "p * stride_h + offset_h (column alike, inside the source), lowest index at a tie, is "
    "written, one of its bytes as ``high_byte`` says, to lane q % R of "
    "OFM[ofm_base + p * ofm_row_step + q // R].",
    (
        (
            Error.FIELD,
            "``lane`` no multiple of L or not below R (not for argmax); ``residual`` with max, "
            "resize or argmax; drain of more than K lanes; resize with a ``step`` above or a "
            "``frac`` not below its ``den``, or denominators that are too large together; "
            "``accumulate`` unless this and the vector instruction before are both max or both sum "
            "with ``chunks``, ``out_rows`` and ``out_cols`` of 1",
        ),
        (
            Error.BUFFER,
            "a place beyond VEC, PRM, the accumulator bank or OFM; argmax outside of its source",
        ),
    ),
)

STORE = Instruction(
    "store",
    0x04,
    Unit.STORE,
    (
        Field("address", 32, "memory address of the first row, a multiple of R"),
        Field("plane_step", 32, "bytes from plane to plane, a multiple of R"),
        Field("row_step", 32, "bytes from row to row, a multiple of R"),
        Field("base", 16, "first vector in OFM; planes, rows and vectors follow densely"),
        Field("planes", 16, "planes to copy", minimum=1),
        Field("rows", 16, "rows in a plane", minimum=1),
        Field("vectors", 16, "vectors in a row", minimum=1),
    ),
    "For each plane and row: copy ``vectors`` consecutive vectors from OFM to memory. Finished "
    "when the memory has "
    "acknowledged the last write.",
    (
        (
            Error.MEMORY,
            "an address or step that is no multiple of R, or a row that does not lie in the "
            "memory; rows before it have been stored",
        ),
        (Error.BUFFER, "a row beyond OFM; rows before it have been stored"),
        (Error.BUS, "a write that the bus answered with an error"),
    ),
)

#: All instructions.
INSTRUCTIONS = (END, LOAD, ARRAY, VECTOR, STORE)
_BY_NAME = {instruction.name: instruction for instruction in INSTRUCTIONS}
_BY_OPCODE = {instruction.opcode: instruction for instruction in INSTRUCTIONS}


def encode(
    name: str, fields: Mapping[str, int] | None = None, /, *, wait: int = 0, signal: int = 0
) -> bytes:
    """Return the 64 bytes of the instruction ``name``.

    Fields that are not given have the value nearest to zero that hardware accepts.

    Raises
    ------
    ValueError
        Unknown instruction or field, or a value outside the field's range, all named.
    """
    if name not in _BY_NAME:
        raise ValueError(f"unknown instruction {name!r}; known: {', '.join(_BY_NAME)}")
    instruction = _BY_NAME[name]
    given = dict(fields or {}) | {"opcode": instruction.opcode, "wait": wait, "signal": signal}
    word = 0
    for field, offset in instruction.offsets().values():
        value = int(given.pop(field.name, min(max(0, field.low), field.high)))
        if not field.low <= value <= field.high:
            raise ValueError(
                f"{name}.{field.name} must be in [{field.low}, {field.high}], not {value}"
            )
        word |= (value & ((1 << field.width) - 1)) << offset
    if given:
        raise ValueError(f"{name} has no field {', '.join(given)}")
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def opcode_of(data: bytes | np.ndarray) -> Instruction | None:
    """Return the instruction that the 64 bytes name by their opcode, or None for an unknown one."""
    return _BY_OPCODE.get(int(data[0]))


def decode(data: bytes | np.ndarray) -> tuple[Instruction, dict[str, int]]:
    """Return the instruction and its fields (header included) from 64 bytes, without checking
    ranges.

    Raises
    ------
    ValueError
        Unknown opcode, wrong length, or a reserved bit that is set (the error OPCODE).
    """
    data = bytes(data)
    if len(data) != INSTRUCTION_BYTES:
        raise ValueError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
    instruction = opcode_of(data)
    if instruction is None:
        raise ValueError(f"unknown opcode 0x{data[0]:02x}")
    word = int.from_bytes(data, "little")
    if word >> instruction.width:
        raise ValueError(
            f"{instruction.name}: reserved bits above bit {instruction.width - 1} are set"
        )
    fields = {}
    for field, offset in instruction.offsets().values():
        value = (word >> offset) & ((1 << field.width) - 1)
        if field.signed and value >> (field.width - 1):
            value -= 1 << field.width
        fields[field.name] = value
    return instruction, fields


@dataclass(frozen=True)
class Batch:
    """All instructions of one kind in a program: where they are, ``index`` (n,), and the values of
    each field, header included, (n,) int64.
    """

    instruction: Instruction
    index: np.ndarray
    fields: Mapping[str, np.ndarray]

    def rows(self) -> list[dict[str, int]]:
        """Return the fields of each instruction."""
        columns = [column.tolist() for column in self.fields.values()]
        return [dict(zip(self.fields, row, strict=True)) for row in zip(*columns, strict=True)]


def decode_all(data: np.ndarray) -> tuple[Batch, ...]:
    """Return the instructions of a program (uint8, 64 bytes each) by kind, as :func:`decode` does.

    Raises
    ------
    ValueError
        Of the first instruction that does not decode, what :func:`decode` says, behind
        ``instruction {index}:``; or a length that is no multiple of 64.
    """
    if len(data) % INSTRUCTION_BYTES:
        raise ValueError(f"a program has a multiple of 64 bytes, not {len(data)}")
    words = np.ascontiguousarray(data, np.uint8).reshape(-1, INSTRUCTION_BYTES)
    good = np.zeros(len(words), bool)
    batches = []
    for instruction in INSTRUCTIONS:
        index = np.flatnonzero(words[:, 0] == instruction.opcode)
        if not index.size:
            continue
        chosen = words[index].astype(np.int64)
        low, spare = divmod(instruction.width, 8)
        good[index] = ~(chosen[:, low + (spare > 0) :].any(1))
        if spare:
            good[index] &= chosen[:, low] >> spare == 0
        fields = {}
        for field, offset in instruction.offsets().values():
            first, shift = divmod(offset, 8)
            raw = np.zeros(len(index), np.int64)
            for byte in range((shift + field.width + 7) // 8):
                raw |= chosen[:, first + byte] << (8 * byte)
            raw = (raw >> shift) & ((1 << field.width) - 1)
            if field.signed:
                raw -= raw >> (field.width - 1) << field.width
            fields[field.name] = raw
        batches.append(Batch(instruction, index, fields))
    if not good.all():
        first = int(np.argmin(good))
        try:
            decode(words[first])
        except ValueError as error:
            raise ValueError(f"instruction {first}: {error}") from error
    return tuple(batches)


def encode_all(
    names: Sequence[str],
    fields: Sequence[Mapping[str, int]],
    waits: Sequence[int],
    signals: Sequence[int],
) -> np.ndarray:
    """Return a program as uint8: what :func:`encode` returns for each instruction, one after the
    other.

    Raises
    ------
    ValueError
        As :func:`encode`, for the first instruction that it refuses.
    """
    words = np.zeros((len(names), INSTRUCTION_BYTES), np.uint8)
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for index, (name, given) in enumerate(zip(names, fields, strict=True)):
        groups.setdefault((name, tuple(given)), []).append(index)
    good = True
    for (name, given_names), members in groups.items():
        instruction = _BY_NAME.get(name)
        count = len(members)
        flat = chain.from_iterable(fields[i].values() for i in members)
        try:
            values = np.fromiter(flat, np.int64, count * len(given_names))
        except OverflowError:
            good = False
            continue
        columns = dict(zip(given_names, values.reshape(count, -1).T, strict=True))
        columns["wait"] = np.array([waits[i] for i in members], np.int64)
        columns["signal"] = np.array([signals[i] for i in members], np.int64)
        if instruction is None:
            good = False
            continue
        columns["opcode"] = np.full(count, instruction.opcode)
        for field, offset in instruction.offsets().values():
            value = columns.pop(field.name, None)
            if value is None:
                value = np.full(count, min(max(0, field.low), field.high))
            good = good and bool(((value >= field.low) & (value <= field.high)).all())
            first, shift = divmod(offset, 8)
            raw = (value & ((1 << field.width) - 1)) << shift
            for byte in range((shift + field.width + 7) // 8):
                words[members, first + byte] |= ((raw >> (8 * byte)) & 255).astype(np.uint8)
        good = good and not columns
    if not good:
        for name, given, wait, signal in zip(names, fields, waits, signals, strict=True):
            encode(name, given, wait=wait, signal=signal)
        raise AssertionError("an instruction was refused, but not by itself")
    return words.reshape(-1)
