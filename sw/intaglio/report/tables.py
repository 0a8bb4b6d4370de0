"""Pages of the guide that are made from tables: instructions, registers, and a header for C."""

from collections.abc import Callable, Iterable

from intaglio.spec import isa, link, regs

__all__ = ["PAGES", "instruction_page", "link_page", "register_header", "register_page"]

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


def link_page() -> str:
    """Return the page on the serial link to a board."""

    def header(fields: Iterable[link.FrameField], sync: int) -> str:
        rows: list[tuple[object, str, str]] = [(0, "", f"{sync:#04x}")]
        offset = 1
        for field in fields:
            last = offset + field.nbytes - 1
            place = str(offset) if field.nbytes == 1 else f"{offset} .. {last}"
            rows.append((place, f"`{field.name}`", field.description))
            offset = last + 1
        return _rows(("byte", "field", "meaning"), rows)

    return "".join(
        [
            "# Serial link\n\n",
            _NOTE,
            f"\nVersion {link.LINK_VERSION >> 16}.{link.LINK_VERSION & 0xFFFF}. The line has 8 "
            "data bits, no parity and 1 stop bit. The host sends a request and waits for its "
            "response before it sends the next one. Numbers are little endian. Behind each frame "
            "stands its check, 4 bytes: the CRC-32 (ISO-HDLC, as zlib) of all but the first byte."
            "\n\n"
            "A request is carried out when all of it has arrived and its check is right. One that "
            "is damaged, or stops for longer than "
            f"{1000 * link.GAP_SECONDS:.0f} ms, is dropped without a response: the host waits "
            "longer than that and sends it again, with the same sequence number. A write with the "
            "sequence number of the request before is answered, and not carried out again.\n",
            "\n## Requests\n\n",
            header(link.REQUEST_HEADER, link.REQUEST_SYNC),
            "\nWrites have `length` bytes of payload, at most "
            f"{link.MAX_PAYLOAD}. A transfer to or from memory does not cross a multiple of "
            f"{link.MAX_PAYLOAD} bytes, and its address and length are multiples of `beat_bytes`."
            "\n\n",
            _rows(
                ("command", "name", "meaning"),
                ((f"{item:#04x}", item.name, item.description) for item in link.Command),
            ),
            "\n## Responses\n\n",
            header(link.RESPONSE_HEADER, link.RESPONSE_SYNC),
            "\n",
            _rows(
                ("status", "name", "meaning"),
                ((int(item), item.name, item.description) for item in link.Status),
            ),
            "\n## Registers\n\nThe [accelerator's](registers.md) are at their addresses. The "
            "bridge has its own:\n\n",
            _rows(
                ("address", "register", "access", "meaning"),
                (
                    (f"{r.address:#06x}", f"`{r.name}`", r.access, r.description)
                    for r in link.BRIDGE_REGISTERS
                ),
            ),
        ]
    )


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
    parts.append("\n/* The counters stand one behind the other, in the order above. */\n")
    parts.append(_define("INTAGLIO_COUNTERS", f"{len(regs.COUNTERS)}u"))
    first = regs.register(regs.COUNTERS[0][0]).address
    parts.append(_define("INTAGLIO_COUNTERS_REG", f"{first:#05x}u"))
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
    "serial-link.md": link_page,
}
