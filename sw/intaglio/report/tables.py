"""Pages of the guide that are made from tables: instructions, registers."""

from collections.abc import Callable, Iterable

from intaglio.spec import isa, regs

__all__ = ["PAGES", "instruction_page", "register_page"]

_NOTE = "<!-- Made by `intaglio docs` from the tables in `intaglio.spec`; do not edit. -->\n"


def _rows(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *(list(map(str, row)) for row in rows)]
    return "".join("| " + " | ".join(line).replace("\n", " ") + " |\n" for line in lines)


def _bits(offset: int, width: int) -> str:
    return f"{offset + width - 1}:{offset}" if width > 1 else str(offset)


def instruction_page() -> str:
    """Return the page on the instruction set."""
    parts = [
        "# Instructions\n\n",
        _NOTE,
        f"\nAn instruction is {isa.INSTRUCTION_BYTES} bytes, little endian; bits that no field "
        "names are zero. Each begins with the same header. A field outside its range stops the "
        "machine with the error FIELD, an unknown opcode with OPCODE.\n\n",
        _rows(
            ("bits", "field", "meaning"),
            _field_offsets(isa.HEADER),
        ),
        "\nUnits, as bits of `wait` and `signal`: ",
        ", ".join(f"{unit.value} {unit.name.lower()}" for unit in isa.UNITS),
        ".\n",
    ]
    for instruction in sorted(isa.INSTRUCTIONS, key=lambda item: item.opcode):
        unit = "the sequencer" if instruction.unit is None else instruction.unit.name.lower()
        parts.append(f"\n## {instruction.name} (opcode {instruction.opcode:#04x}, {unit})\n\n")
        parts.append(f"{instruction.action}\n")
        if instruction.fields:
            parts.append("\n")
            parts.append(
                _rows(
                    ("bits", "field", "range", "meaning"),
                    (
                        (_bits(offset, field.width), f"`{field.name}`", _range(field), _text(field))
                        for field, offset in instruction.offsets().values()
                        if field not in isa.HEADER
                    ),
                )
            )
    parts.append("\n## Errors\n\nIn the register `error`; the first one wins.\n\n")
    parts.append(_rows(("code", "name"), ((int(error), error.name) for error in isa.Error)))
    return "".join(parts)


def _field_offsets(fields: Iterable[isa.Field]) -> Iterable[tuple[str, str, str]]:
    offset = 0
    for field in fields:
        yield _bits(offset, field.width), f"`{field.name}`", _text(field)
        offset += field.width


def _range(field: isa.Field) -> str:
    return f"{field.low} .. {field.high}"


def _text(field: isa.Field) -> str:
    return field.description.replace("|", "\\|")


def register_page() -> str:
    """Return the page on the register map."""
    parts = [
        "# Registers\n\n",
        _NOTE,
        f"\nVersion {regs.VERSION >> 16}.{regs.VERSION & 0xFFFF}. 32-bit registers behind "
        "AXI4-Lite. `ro` is read only, `rw` read and write, `w1` acts when a one is written, "
        "`w1c` clears where a one is written. Writes to `ro`, to `rw` while the machine is busy "
        "(`interrupt_enable` excepted) and accesses outside the map are answered with SLVERR.\n\n",
        _rows(
            ("address", "register", "access", "meaning"),
            ((f"{r.address:#04x}", f"`{r.name}`", r.access, r.description) for r in regs.REGISTERS),
        ),
    ]
    for register in regs.REGISTERS:
        if register.fields:
            parts.append(f"\n## {register.name}\n\n")
            parts.append(_rows(("bits", "field", "meaning"), _field_offsets(register.fields)))
    return "".join(parts)


#: File name -> the function that makes the page.
PAGES: dict[str, Callable[[], str]] = {
    "instructions.md": instruction_page,
    "registers.md": register_page,
}
