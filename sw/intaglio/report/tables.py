"""Pages of the guide that are made from tables: instructions, registers, and a header for C."""

from collections.abc import Callable, Iterable

from intaglio.spec import isa, regs

__all__ = ["PAGES", "instruction_page", "register_header", "register_page"]

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
        if instruction.errors:
            parts.append("\n")
            parts.append(
                _rows(("error", "when"), ((error.name, text) for error, text in instruction.errors))
            )
    parts.append(
        "\n## Errors\n\nIn the register `error`; the first one wins. `error_instruction` is the "
        "index of the instruction that caused it.\n\n"
    )
    parts.append(
        _rows(
            ("code", "name", "meaning"),
            ((int(error), error.name, error.description) for error in isa.Error),
        )
    )
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


def register_header() -> str:
    """Return the register map as a header for C: addresses, masks and shifts of fields, errors."""
    parts = [
        "/* Made by `intaglio docs` from the tables in `intaglio.spec`; do not edit. */\n",
        "#ifndef INTAGLIO_REGS_H\n#define INTAGLIO_REGS_H\n\n",
        _define("INTAGLIO_IDENTITY", f"{regs.IDENTITY:#010x}u"),
        _define("INTAGLIO_VERSION", f"{regs.VERSION:#010x}u"),
        _define("INTAGLIO_INSTRUCTION_BYTES", f"{isa.INSTRUCTION_BYTES}u"),
        "\n/* Registers: byte offsets. */\n",
    ]
    for register in regs.REGISTERS:
        name = f"INTAGLIO_{register.name.upper()}"
        parts.append(_define(f"{name}_REG", f"{register.address:#05x}u", register.description))
        offset = 0
        for field in register.fields:
            mask = ((1 << field.width) - 1) << offset
            parts.append(_define(f"{name}_{field.name.upper()}_SHIFT", str(offset)))
            parts.append(
                _define(f"{name}_{field.name.upper()}_MASK", f"{mask:#010x}u", field.description)
            )
            offset += field.width
    parts.append("\n/* Errors. */\n")
    for error in isa.Error:
        parts.append(_define(f"INTAGLIO_ERROR_{error.name}", f"{int(error)}u", error.description))
    return "".join([*parts, "\n#endif\n"])


def _define(name: str, value: str, text: str = "") -> str:
    return f"#define {name} {value}" + (f" /* {text} */" if text else "") + "\n"


#: File name -> the function that makes the page.
PAGES: dict[str, Callable[[], str]] = {
    "instructions.md": instruction_page,
    "registers.md": register_page,
    "intaglio_regs.h": register_header,
}
