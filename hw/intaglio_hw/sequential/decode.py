"""Fields and their checks: code made from the tables of :mod:`intaglio.spec.isa`."""

from intaglio.spec import isa
from intaglio.spec.isa import Error
from intaglio_hw.sequential.assembler import Register
from intaglio_hw.sequential.context import Context
from intaglio_hw.sequential.interface import Condition
from intaglio_hw.sequential.layout import WORDS

__all__ = ["checks", "unpack_label", "unpackers"]

_HEADER_BITS = sum(field.width for field in isa.HEADER)


def unpack_label(instruction: isa.Instruction) -> str:
    """Return the label of the subroutine that takes the fields out of the words."""
    return f"unpack.{instruction.name}"


def unpackers(x: Context, link: Register) -> None:
    """Emit for each instruction a subroutine that fills the registers of its fields from the
    words: zero- or sign-extended.
    """
    a = x.a
    for instruction in isa.INSTRUCTIONS:
        if instruction.unit is None:
            continue
        a.label(unpack_label(instruction))
        for field, offset in instruction.offsets().values():
            word, rest = divmod(offset, 16)
            if offset < _HEADER_BITS or (rest == 0 and field.width % 16 == 0):
                continue
            d = x.field(instruction, field.name)
            if field.width == 16:  # across two words
                a.swp(d, x.f[word])
                a.and_(d, 0xFF)
                a.swp(x.t, x.f[word + 1])
                a.and_(x.t, 0xFF00)
                a.or_(d, x.t)
                continue
            if rest:
                a.swp(d, x.f[word])
            if field.signed:
                a.sxt(d, d if rest else x.f[word])
                continue
            if not rest and d is not x.f[word]:
                a.mov(d, x.f[word])
            a.and_(d, 0xFF)
        a.ret(link)


def _check_range(
    x: Context, field: isa.Field, registers: tuple[Register, ...], link: Register
) -> None:
    """End with FIELD if a field is outside of its range."""
    a = x.a
    natural = isa.Field(field.name, field.width, "", field.signed)
    low, high = field.low > natural.low, field.high < natural.high
    if not (low or high):
        return
    if len(registers) == 2:
        words = (x.t, x.u)
        x.move(words, registers)
        x.subtract_wide(words, (field.low & 0xFFFF, field.low >> 16))
        span = field.high - field.low
        x.compare_wide(words, (span & 0xFFFF, span >> 16))
        x.fail(Error.FIELD, Condition.HI)
        return
    (register,) = registers
    if low and field.low == 1 and not high:
        a.cmp(register, 1)
        x.fail(Error.FIELD, Condition.C, unless=True)
        return
    if low and field.width == 16:
        a.mov(x.t, register)
        a.call(link, _range_label(field))
        return
    assert field.low == 0
    a.cmp(register, field.high)
    x.fail(Error.FIELD, Condition.HI)


def _range_label(field: isa.Field) -> str:
    return f"range.{field.low}.{field.high}"


def _ranges(x: Context, link: Register) -> None:
    """Emit the subroutines for ranges that several fields have: ``t`` is looked at."""
    a = x.a
    fields = {
        _range_label(field): field
        for instruction in isa.INSTRUCTIONS
        for field in instruction.fields
        if field.width == 16
        and field.low != 0
        and (field.signed or field.high < (1 << field.width) - 1)
    }
    for label, field in fields.items():
        a.label(label)
        a.sub(x.t, field.low)
        a.cmp(x.t, field.high - field.low)
        x.fail(Error.FIELD, Condition.HI)
        a.ret(link)


def checks(x: Context, *, link: Register, unpack: Register, opcode: Register) -> None:
    """Emit the subroutine ``check``: what the sequencer refuses of the words in ``f``; ``opcode``
    is set.

    The words behind the longest instruction are looked at first, then those between it and the
    next shorter one, and so on: ``rest`` is what was found behind the instruction.
    """
    a = x.a
    rest = x.u
    a.label("check")
    a.mov(opcode, x.f[0])
    a.and_(opcode, 0xFF)
    a.mov(rest, 0)
    at = WORDS  # words from here on have been seen
    for instruction in sorted(isa.INSTRUCTIONS, key=lambda item: -item.width):
        first, spare = divmod(instruction.width, 16)
        while at > first + (spare > 0):
            at -= 1
            a.or_(rest, x.f[at])
        other = a.fresh("other")
        a.cmp(opcode, instruction.opcode)
        a.jump(other, Condition.Z, unless=True)
        if spare:
            assert spare == 8
            a.mov(x.t, x.f[first])
            a.and_(x.t, 0xFF00)
            a.or_(rest, x.t)
        a.cmp(rest, 0)
        x.fail(Error.OPCODE, Condition.Z, unless=True)
        if instruction.unit is None:
            a.tst(x.f[0], 0xFF00)
        else:
            a.call(unpack, unpack_label(instruction))
            for field in instruction.fields:
                _check_range(x, field, x.fields[instruction.name][field.name], unpack)
            a.tst(x.f[0], 0x1100 << instruction.unit)
        x.fail(Error.TOKEN, Condition.Z, unless=True)
        a.ret(link)
        a.label(other)
    x.fail(Error.OPCODE)
    _ranges(x, unpack)
