"""The pages and the header that are made from the tables."""

import re
import shutil
import subprocess

import pytest

from intaglio.report.tables import instruction_page, register_header, register_page
from intaglio.spec import isa, regs


def test_every_instruction_field_and_error_is_on_its_page():
    page = instruction_page()
    for instruction in isa.INSTRUCTIONS:
        section = page.split(f"## {instruction.name} (opcode")[1].split("\n## ")[0]
        for field, offset in instruction.offsets().values():
            if field not in isa.HEADER:
                bits = f"{offset + field.width - 1}:{offset}"
                line = f"| {bits} | `{field.name}` | {field.low} .. {field.high} |"
                assert line in section
        assert instruction.action in section
        assert [name for name, _ in re.findall(r"^\| ([A-Z]+) \| (.*) \|$", section, re.M)] == [
            error.name for error, _ in instruction.errors
        ]
    for error in isa.Error:
        assert f"| {int(error)} | {error.name} | {error.description} |" in page
        assert isa.Error(int(error)) is error


def test_every_register_is_on_its_page():
    page = register_page()
    for register in regs.REGISTERS:
        assert f"| {register.address:#04x} | `{register.name}` | {register.access} |" in page


def test_the_header_is_what_the_tables_say(tmp_path):
    found = dict(re.findall(r"^#define (\w+) (\w+)", register_header(), re.M))
    for register in regs.REGISTERS:
        name = f"INTAGLIO_{register.name.upper()}"
        assert int(found[f"{name}_REG"].rstrip("u"), 16) == register.address
        offset = 0
        for field in register.fields:
            prefix = f"{name}_{field.name.upper()}"
            assert int(found[f"{prefix}_SHIFT"]) == offset
            mask = int(found[f"{prefix}_MASK"].rstrip("u"), 16)
            assert mask >> offset == (1 << field.width) - 1
            offset += field.width
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "intaglio_regs.h").write_text(register_header())
    (tmp_path / "test.c").write_text(
        '#include "intaglio_regs.h"\n#include "intaglio_regs.h"\n'
        '_Static_assert(INTAGLIO_STATUS_FAILED_MASK == 4 && INTAGLIO_ERROR_TIMEOUT == 9, "");\n'
        "unsigned address = INTAGLIO_CYCLES_REG;\n"
    )
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-c", "test.c", "-o", "test.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
