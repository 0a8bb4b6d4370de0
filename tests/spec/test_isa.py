"""The instruction table: layout, round trips, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.spec import isa
from intaglio.spec.isa import Field, Instruction

NAMES = [instruction.name for instruction in isa.INSTRUCTIONS]
BY_NAME = {instruction.name: instruction for instruction in isa.INSTRUCTIONS}


@st.composite
def instructions(draw: st.DrawFn) -> tuple[str, dict[str, int], int, int]:
    name = draw(st.sampled_from(NAMES))
    fields = {
        field.name: draw(
            st.one_of(st.sampled_from([field.low, field.high]), st.integers(field.low, field.high))
        )
        for field in BY_NAME[name].fields
    }
    return name, fields, draw(st.integers(0, 15)), draw(st.integers(0, 15))


@given(instructions())
def test_round_trip(case: tuple[str, dict[str, int], int, int]) -> None:
    name, fields, wait, signal = case
    data = isa.encode(name, fields, wait=wait, signal=signal)
    assert len(data) == isa.INSTRUCTION_BYTES
    found, decoded = isa.decode(data)
    assert found.name == name
    header = {"opcode": found.opcode, "wait": wait, "signal": signal}
    assert decoded == header | fields
    assert list(decoded) == [field.name for field in isa.HEADER + found.fields]
    assert isa.decode(np.frombuffer(data, np.uint8)) == (found, decoded)
    # As an independent reader of the table would do it: field by field in a string of bits.
    bits = "".join(f"{byte:08b}"[::-1] for byte in data)
    start = 0
    for field in isa.HEADER + found.fields:
        raw = bits[start : start + field.width][::-1]
        value = int(raw, 2) - (1 << field.width) * (field.signed and raw[0] == "1")
        assert value == decoded[field.name], field.name
        start += field.width
    assert set(bits[start:]) <= {"0"}


@pytest.mark.parametrize("instruction", isa.INSTRUCTIONS, ids=NAMES)
def test_table(instruction: Instruction) -> None:
    assert instruction.width <= isa.INSTRUCTION_BITS
    offset = 0
    for name, (field, low) in instruction.offsets().items():
        assert name == field.name
        assert low == offset
        offset += field.width
        assert field.low <= field.high
        natural = Field("", field.width, "", field.signed)
        assert natural.low <= field.low
        assert field.high <= natural.high
        assert field.description
    assert offset == instruction.width
    assert len(instruction.offsets()) == len(isa.HEADER + instruction.fields)
    assert list(instruction.offsets())[:3] == ["opcode", "wait", "signal"]
    assert sum(field.width for field in isa.HEADER) == 16


def test_opcodes_and_units() -> None:
    opcodes = [instruction.opcode for instruction in isa.INSTRUCTIONS]
    assert len(set(opcodes)) == len(opcodes)
    assert 0 not in opcodes  # empty memory is not a program
    # Every unit has exactly one instruction; only the sequencer's has none.
    assert [i.unit for i in isa.INSTRUCTIONS if i.unit is not None] == list(isa.UNITS)
    assert [i.name for i in isa.INSTRUCTIONS if i.unit is None] == ["end"]
    assert isa.TOKEN_MAX == 255
    for name, field in (("buffer", isa.LOAD), ("function", isa.VECTOR)):
        enum = isa.Buffer if name == "buffer" else isa.Function
        assert field.offsets()[name][0].high == max(enum)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_nearest_to_zero(name: str) -> None:
    instruction, fields = isa.decode(isa.encode(name))
    for field in instruction.fields:
        assert fields[field.name] == min(max(0, field.low), field.high)
    assert fields["wait"] == fields["signal"] == 0


@pytest.mark.parametrize(
    ("name", "fields", "wait", "text"),
    [
        ("jump", {}, 0, "unknown instruction 'jump'; known: end, load, array, vector, store"),
        ("load", {"buffer": 4}, 0, r"load.buffer must be in \[0, 3\], not 4"),
        ("load", {"pad_code": -129}, 0, r"load.pad_code must be in \[-128, 127\], not -129"),
        ("load", {"lead": 225}, 0, r"load.lead must be in \[0, 224\], not 225"),
        ("load", {"row_bytes": 0}, 0, r"load.row_bytes must be in \[1, 1048576\], not 0"),
        ("array", {"offset_w": 4096}, 0, r"array.offset_w must be in \[-4096, 4095\], not 4096"),
        ("array", {"ifm_rows": 4096}, 0, r"array.ifm_rows must be in \[1, 4095\], not 4096"),
        ("vector", {"shift": 48}, 0, r"vector.shift must be in \[0, 47\], not 48"),
        ("vector", {"channels": 0}, 0, r"vector.channels must be in \[1, 65535\], not 0"),
        ("vector", {"high_byte": 2}, 0, r"vector.high_byte must be in \[0, 1\], not 2"),
        ("store", {"address": -8}, 0, r"store.address must be in \[0, 4294967295\], not -8"),
        ("store", {"lead": 0, "pad": 1}, 0, "store has no field lead, pad"),
        ("end", {}, 16, r"end.wait must be in \[0, 15\], not 16"),
    ],
)
def test_encode_refuses(name: str, fields: dict[str, int], wait: int, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        isa.encode(name, fields, wait=wait)


def test_decode_refuses() -> None:
    good = isa.encode("store")
    with pytest.raises(ValueError, match="^an instruction has 64 bytes, not 63$"):
        isa.decode(good[:63])
    with pytest.raises(ValueError, match="^unknown opcode 0x00$"):
        isa.decode(bytes(64))
    assert isa.opcode_of(bytes(64)) is None
    assert isa.opcode_of(good) is isa.STORE
    with pytest.raises(ValueError, match="reserved bits above bit 15 are set"):
        isa.decode(bytes([isa.END.opcode, 0, 1]) + bytes(61))
    # The first reserved bit and the last one, for each instruction.
    for instruction in isa.INSTRUCTIONS:
        for bit in {instruction.width, isa.INSTRUCTION_BITS - 1}:
            word = int.from_bytes(isa.encode(instruction.name), "little") | 1 << bit
            with pytest.raises(ValueError, match=f"{instruction.name}: reserved bits above bit"):
                isa.decode(word.to_bytes(64, "little"))


@given(st.lists(instructions(), max_size=12))
def test_whole_programs(cases: list[tuple[str, dict[str, int], int, int]]) -> None:
    """All at once is one by one, in both directions."""
    names, fields, waits, signals = ([case[i] for case in cases] for i in range(4))
    code = isa.encode_all(names, fields, waits, signals)
    words = [isa.encode(n, f, wait=w, signal=s) for n, f, w, s in cases]
    assert code.dtype == np.uint8
    assert code.tobytes() == b"".join(words)
    found = {}
    for batch in isa.decode_all(code):
        for index, row in zip(batch.index.tolist(), batch.rows(), strict=True):
            found[index] = batch.instruction, row
    assert [found[index] for index in range(len(words))] == [isa.decode(word) for word in words]


def test_whole_programs_with_defaults() -> None:
    names = [*NAMES, *NAMES]
    given_fields = [{}] * len(NAMES) + [{}, {"rows": 3}, {"blocks": 2}, {"lane": 4}, {"rows": 2}]
    code = isa.encode_all(names, given_fields, [0] * len(names), [0] * len(names))
    expected = [isa.encode(n, f) for n, f in zip(names, given_fields, strict=True)]
    assert code.tobytes() == b"".join(expected)


@pytest.mark.parametrize(
    ("name", "fields", "wait", "text"),
    [
        ("jump", {}, 0, "unknown instruction 'jump'; known: end, load, array, vector, store"),
        ("load", {"buffer": 4}, 0, r"load.buffer must be in \[0, 3\], not 4"),
        ("load", {"pad_code": -129}, 0, r"load.pad_code must be in \[-128, 127\], not -129"),
        ("store", {"base": 1 << 70}, 0, rf"store.base must be in \[0, 65535\], not {1 << 70}"),
        ("store", {"lead": 0, "pad": 1}, 0, "store has no field lead, pad"),
        ("end", {}, 16, r"end.wait must be in \[0, 15\], not 16"),
    ],
)
def test_whole_programs_are_refused_like_one(
    name: str, fields: dict[str, int], wait: int, text: str
) -> None:
    bad = {"rows": -1}
    with pytest.raises(ValueError, match=f"^{text}$"):
        isa.encode_all(["array", name, "load"], [{}, fields, bad], [0, wait, 0], [0, 0, 0])


def test_decoding_whole_programs_refuses() -> None:
    good = np.frombuffer(isa.encode("store") + isa.encode("end"), np.uint8)
    assert isa.decode_all(good[:0]) == ()
    with pytest.raises(ValueError, match="^a program has a multiple of 64 bytes, not 127$"):
        isa.decode_all(good[:127])
    with pytest.raises(ValueError, match="^instruction 2: unknown opcode 0x00$"):
        isa.decode_all(np.concatenate([good, np.zeros(128, np.uint8)]))
    for instruction in isa.INSTRUCTIONS:
        for bit in {instruction.width, isa.INSTRUCTION_BITS - 1}:
            if bit < instruction.width:
                continue
            word = int.from_bytes(isa.encode(instruction.name), "little") | 1 << bit
            bad = np.frombuffer(word.to_bytes(64, "little"), np.uint8)
            text = f"^instruction 2: {instruction.name}: reserved bits above bit"
            with pytest.raises(ValueError, match=text):
                isa.decode_all(np.concatenate([good, bad, bad]))


def test_an_instruction_that_is_too_wide() -> None:
    with pytest.raises(ValueError, match="big has 513 bits, more than 512"):
        Instruction("big", 9, None, (Field("x", 497, ""),), "")
