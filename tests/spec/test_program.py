"""The compiled program and its file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.spec import isa
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.program import (
    Placement,
    Program,
    load_program,
    read_value,
    save_program,
    write_value,
)

X = Placement(name="x", shape=(3, 2, 5), exponent=-7, address=64, layout="dense")
Y = Placement(
    # Channels out of order, in two blocks, with a gap.
    name="y",
    shape=(4, 2, 5),
    exponent=-5,
    address=128,
    layout="blocks",
    lanes=(9, 0, 8, 3),
)
Z = Placement(name="z", shape=(1, 2, 9), exponent=0, address=320, layout="classes")


def program(**changes: Any) -> Program:
    words = [isa.encode("store", {"address": 8 * i}) for i in range(2)] + [isa.encode("end")]
    memory = np.random.default_rng(0).integers(0, 256, 1024, np.uint8)
    instructions = np.frombuffer(b"".join(words), np.uint8).copy()
    memory[512 : 512 + len(instructions)] = instructions
    fields: dict[str, Any] = dict(
        config=CONFIGS["tiny-8x8"],
        graph_digest="00" * 32,
        instructions=instructions,
        program_base=512,
        memory=memory,
        values={"x": X, "y": Y, "z": Z},
        inputs=("x",),
        outputs=("z",),
        layers=("a", "a", ""),
        macs={"a": 1234, "b": 0},
    )
    return Program(**(fields | changes))


# ------------------------------------------------------------------------------------ placements


def test_dense() -> None:
    memory = np.zeros(256, np.uint8)
    x = np.arange(-15, 15, dtype=np.int8).reshape(3, 2, 5)
    write_value(memory, X, x, 8)
    assert X.nbytes(8) == 30
    for c, h, w in np.ndindex(3, 2, 5):
        assert memory[64 + (h * 5 + w) * 3 + c].view(np.int8) == x[c, h, w]
    assert not memory[:64].any()
    assert not memory[94:].any()
    np.testing.assert_array_equal(read_value(memory, X, 8), x)


@pytest.mark.parametrize("R", [8, 16])
def test_blocks(R: int) -> None:
    memory = np.full(512, 77, np.uint8)
    y = np.arange(-20, 20, dtype=np.int8).reshape(4, 2, 5)
    write_value(memory, Y, y, R)
    blocks = 2 if R == 8 else 1
    assert Y.blocks(R) == blocks
    assert Y.nbytes(R) == blocks * 10 * R
    written = np.zeros(512, bool)
    for (c, h, w), code in np.ndenumerate(y):
        lane = Y.lanes[c]
        at = 128 + ((lane // R * 2 + h) * 5 + w) * R + lane % R
        assert memory[at].view(np.int8) == code
        written[at] = True
    assert (memory[~written] == 77).all()
    np.testing.assert_array_equal(read_value(memory, Y, R), y)


def test_classes() -> None:
    memory = np.arange(512).astype(np.uint8)
    assert Z.nbytes(8) == 2 * 16
    assert Z.nbytes(16) == 2 * 16
    found = read_value(memory, Z, 8)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[memory[320:329], memory[336:345]]])


def test_reading_is_a_copy() -> None:
    memory = np.zeros(512, np.uint8)
    for placement in (X, Y, Z):
        read_value(memory, placement, 8)[:] = 1
        assert not memory.any()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"layout": "planar"},
            "layout must be one of dense, blocks, classes, wide_classes, not 'planar'",
        ),
        ({"lanes": (1, 2)}, "lanes must name 4 channels, not 2"),
    ],
)
def test_bad_placements(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(Y, **changes)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((3, 2, 5), np.uint8),
        np.zeros((3, 2, 4), np.int8),
        np.zeros((1, 3, 2, 5), np.int8),
    ],
)
def test_values_of_other_type_or_shape_are_refused(x: np.ndarray) -> None:
    memory = np.zeros(512, np.uint8)
    with pytest.raises(ValueError, match=r"value 'x' is int8 \(3, 2, 5\), not u?int8 \("):
        write_value(memory, X, x, 8)
    assert not memory.any()


def test_class_maps_are_not_written() -> None:
    with pytest.raises(ValueError, match="value 'z'"):
        write_value(np.zeros(512, np.uint8), Z, np.zeros((1, 2, 9), np.int8), 8)


def test_a_value_outside_of_the_memory() -> None:
    text = r"value 'y' lies at \[128, 288\), the memory has 287 bytes"
    with pytest.raises(ValueError, match=text):
        read_value(np.zeros(287, np.uint8), Y, 8)


# --------------------------------------------------------------------------------------- program


def test_properties() -> None:
    p = program()
    assert (p.length, p.memory_bytes) == (3, 1024)
    assert isa.decode(p.instruction(1))[1]["address"] == 8
    assert isa.decode(p.instruction(2))[0] is isa.END


def test_image_is_a_copy_with_the_input() -> None:
    p = program()
    before = p.memory.copy()
    x = np.arange(30, dtype=np.int8).reshape(3, 2, 5)
    image = p.image(x)
    np.testing.assert_array_equal(p.memory, before)
    np.testing.assert_array_equal(read_value(image, X, 8), x)
    image[64:94] = before[64:94]
    np.testing.assert_array_equal(image, before)


def test_digest_is_about_configuration_graph_instructions_and_memory() -> None:
    base = program()
    memory, instructions = base.memory.copy(), base.instructions.copy()
    memory[0] ^= 1
    instructions[8] ^= 1
    digests = {
        base.digest(),
        program(config=CONFIGS["mini-8x8"]).digest(),
        program(graph_digest="11" * 32).digest(),
        program(memory=memory).digest(),
        program(instructions=instructions).digest(),
    }
    assert len(digests) == 5
    assert program().digest() == base.digest()


def test_another_configuration_is_refused() -> None:
    p = program()
    p.check_config(dataclasses.replace(CONFIGS["tiny-8x8"], name="renamed"))
    with pytest.raises(IntaglioError) as caught:
        p.check_config(CONFIGS["mini-8x8"])
    text = str(caught.value)
    assert text.startswith("the program is for configuration tiny-8x8 (")
    assert text.endswith("compile it again with 'intaglio compile'")
    assert "\n" not in text
    assert "not mini-8x8 (" in text


def test_round_trip(tmp_path: Path) -> None:
    p = program()
    path = tmp_path / "program.npz"
    save_program(p, path)
    loaded = load_program(path)
    for field in dataclasses.fields(Program):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(p, field.name), field.name)
    assert loaded.digest() == p.digest()


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    save_program(program(), tmp_path / "a.npz")
    save_program(program(), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(IntaglioError, match="none.npz: no such file; 'intaglio compile' makes a"):
        load_program(tmp_path / "none.npz")


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "program.npz"
    save_program(program(), path)
    whole = path.read_bytes()
    for length in [0, 1, 10, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(IntaglioError, match="program.npz: not a program file: ") as caught:
            load_program(path)
        assert "\n" not in str(caught.value)


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    """No flipped byte yields another program: an error, or (in a date, say) no difference."""
    path = tmp_path / "program.npz"
    p = program()
    save_program(p, path)
    whole = bytearray(path.read_bytes())
    refused = 0
    for position in range(len(whole)):
        altered = whole.copy()
        altered[position] ^= 1 << position % 8
        path.write_bytes(altered)
        try:
            loaded = load_program(path)
        except IntaglioError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        else:
            assert loaded.digest() == p.digest()
    assert refused > len(whole) / 2


def _rewrite(path: Path, change: Any) -> None:
    """Change the header of a program file, leaving a well-formed archive."""
    import json

    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays["header"].tobytes())
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)


def test_other_contents_than_the_digest_says(tmp_path: Path) -> None:
    path = tmp_path / "program.npz"

    def change(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["memory"][100] ^= 1

    save_program(program(), path)
    _rewrite(path, change)
    with pytest.raises(IntaglioError, match=r"program.npz: digest .* the file is damaged"):
        load_program(path)


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "program.npz"
    save_program(program(), path)
    _rewrite(path, lambda header, arrays: header.update(format=99))
    with pytest.raises(IntaglioError, match="not a program file: format 99, expected 1"):
        load_program(path)


def test_a_header_without_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "program.npz"
    save_program(program(), path)
    _rewrite(path, lambda header, arrays: header.pop("layers"))
    with pytest.raises(IntaglioError, match="not a program file: 'layers'"):
        load_program(path)


def test_an_npz_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "program.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(IntaglioError, match="not a program file"):
        load_program(path)
