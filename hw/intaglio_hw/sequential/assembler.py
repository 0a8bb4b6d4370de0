"""An assembler for the engine: microprograms are written as Python functions that emit words.

Operands are registers (:class:`Register`), special sources (:class:`interface.Source`), numbers and
:class:`Address`. A number, or an address, of eight bits is an immediate; any other one becomes
a register that is never written and holds it from the bitstream on. Macros are Python functions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from intaglio_hw.sequential.interface import (
    INVERT,
    REGISTER_MAP,
    TARGET_BITS,
    Condition,
    Control,
    Mode,
    Operation,
    Port,
    Source,
    register_number,
)

__all__ = ["Address", "Assembler", "AssemblyError", "Microprogram", "Operand", "Register"]

_MASK = 0xFFFF


class AssemblyError(ValueError):
    """A microprogram that the engine cannot hold, or that names what does not exist."""


@dataclass(frozen=True)
class Register:
    """A register of the engine, by its ``number``; ``name`` is for messages and listings."""

    name: str
    number: int


@dataclass(frozen=True)
class Address:
    """The place of a label in the microprogram, as a number for JR."""

    label: str


Operand = Register | Source | Address | int


@dataclass(frozen=True)
class Microprogram:
    """What the assembler made.

    ``words``: the microprogram. ``registers``: number -> initial value of each that holds a
    constant. ``labels``: name -> place. ``names``: number -> name of each register that has one.
    """

    words: tuple[int, ...]
    registers: Mapping[int, int]
    labels: Mapping[str, int]
    names: Mapping[int, str]

    def place(self, pc: int) -> str:
        """Return where ``pc`` is: the last label before it, and how far behind."""
        found = max(
            ((at, name) for name, at in self.labels.items() if at <= pc), default=(0, "start")
        )
        return f"{found[1]}+{pc - found[0]}"


@dataclass(frozen=True)
class _Reference:
    """A word whose target, or constant, is not known yet; the mode of operand b goes to bits
    ``shift`` and above of ``op``.
    """

    op: int
    d: int
    target: str | None = None
    constant: int | Address | None = None
    shift: int = 0


class Assembler:
    """Collects a microprogram: registers by :meth:`register`, words by the methods named after the
    operations, places by :meth:`label`; then :meth:`assemble`.

    Methods of operations take the destination and operand b (MOV, SWP, SXT, SHR, SAR, ROR) or
    operands a (which is the destination too) and b (all others).
    """

    def __init__(self) -> None:
        self._words: list[int | _Reference] = []
        self._labels: dict[str, int] = {}
        self._registers: dict[str, Register] = {}
        self._initial: dict[int, int] = {}
        self._next = self._most = 0
        self._fresh = 0

    # ------------------------------------------------------------------------- names and places

    def register(self, name: str) -> Register:
        """Return a new register.

        Raises
        ------
        AssemblyError
            The name is taken, or there is no register left.
        """
        if name in self._registers:
            raise AssemblyError(f"register {name!r} exists already")
        if self._next >= REGISTER_MAP:
            raise AssemblyError(f"no register is left for {name!r}: there are {REGISTER_MAP}")
        self._registers[name] = result = Register(name, self._next)
        self._next += 1
        self._most = max(self._most, self._next)
        return result

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Give the registers that are made within back at its end: those of another scope may have
        the same numbers.
        """
        first = self._next
        yield
        self._next = first

    def constant(self, value: int) -> Register:
        """Return a register that holds ``value``, for operand a of what writes nothing; not in
        a scope.
        """
        register = self.register(f"constant {value:#06x}")
        self._initial[register.number] = value
        return register

    def registers(self, *names: str) -> tuple[Register, ...]:
        """Return new registers."""
        return tuple(self.register(name) for name in names)

    def wide(self, name: str, words: int = 2) -> tuple[Register, ...]:
        """Return new registers for the words of a wide number, the lowest first."""
        return tuple(self.register(f"{name}{word}") for word in range(words))

    @staticmethod
    def mapped(name: str) -> tuple[Register, Register]:
        """Return the registers of both halves of ``name`` of the register map."""
        number = register_number(name)
        return Register(f"{name}0", number), Register(f"{name}1", number + 1)

    def label(self, name: str) -> None:
        """Name the place of the next word; AssemblyError if the name is taken."""
        if name in self._labels:
            raise AssemblyError(f"label {name!r} exists already")
        self._labels[name] = len(self._words)

    def fresh(self, hint: str) -> str:
        """Return a name for a label that nobody else has."""
        self._fresh += 1
        return f"{hint}.{self._fresh}"

    @property
    def here(self) -> int:
        """Value of the place of the next word."""
        return len(self._words)

    # ------------------------------------------------------------------------------------- words

    def _emit(self, op: int, d: int, b: Operand, shift: int = 6) -> None:
        """Emit a word; the mode of ``b`` goes to bits ``shift`` and above of ``op``."""
        if isinstance(b, Register):
            self._words.append(_word(op | Mode.REGISTER << shift, d, b.number))
        elif isinstance(b, Source):
            self._words.append(_word(op | Mode.SPECIAL << shift, d, b))
        elif isinstance(b, int) and 0 <= b <= 0xFF:
            self._words.append(_word(op | Mode.IMMEDIATE << shift, d, b))
        elif isinstance(b, int):
            if not -(1 << 15) <= b <= _MASK:
                raise AssemblyError(f"{b} has more than 16 bits")
            constant = b & _MASK
            if constant <= 0xFF:
                self._words.append(_word(op | Mode.IMMEDIATE << shift, d, constant))
            else:
                self._words.append(_Reference(op, d, constant=constant, shift=shift))
        elif isinstance(b, Address):
            self._words.append(_Reference(op, d, constant=b, shift=shift))
        else:
            raise AssemblyError(f"{b!r} is no operand")

    def operate(self, operation: Operation, d: Register, b: Operand) -> None:
        """Emit ``operation``."""
        if not isinstance(d, Register):
            raise AssemblyError(f"{operation.name}: {d!r} is no register")
        self._emit(operation, d.number, b)

    def mov(self, d: Register, b: Operand) -> None:
        """Emit ``d = b``; flags stay."""
        self.operate(Operation.MOV, d, b)

    def and_(self, d: Register, b: Operand) -> None:
        """Emit ``d = d & b``."""
        self.operate(Operation.AND, d, b)

    def or_(self, d: Register, b: Operand) -> None:
        """Emit ``d = d | b``."""
        self.operate(Operation.OR, d, b)

    def xor(self, d: Register, b: Operand) -> None:
        """Emit ``d = d ^ b``."""
        self.operate(Operation.XOR, d, b)

    def swp(self, d: Register, b: Operand) -> None:
        """Emit ``d = b`` with its bytes exchanged; flags stay."""
        self.operate(Operation.SWP, d, b)

    def sxt(self, d: Register, b: Operand) -> None:
        """Emit ``d`` = the low byte of ``b``, sign-extended; flags stay."""
        self.operate(Operation.SXT, d, b)

    def shr(self, d: Register, b: Operand) -> None:
        """Emit ``d = b >> 1``, unsigned; C is the bit that falls out."""
        self.operate(Operation.SHR, d, b)

    def sar(self, d: Register, b: Operand) -> None:
        """Emit ``d = b >> 1``, signed; C is the bit that falls out."""
        self.operate(Operation.SAR, d, b)

    def ror(self, d: Register, b: Operand) -> None:
        """Emit ``d = b >> 1`` with C as the highest bit; C is the bit that falls out."""
        self.operate(Operation.ROR, d, b)

    def tst(self, a: Register, b: Operand) -> None:
        """Emit the flags of ``a & b``."""
        self.operate(Operation.TST, a, b)

    def mul(self, a: Register, b: Operand) -> None:
        """Emit the product of ``a`` and ``b``, for Source.PL, PHS, PHM (unsigned a), PHU."""
        self.operate(Operation.MUL, a, b)

    def add(self, d: Register, b: Operand) -> None:
        """Emit ``d = d + b``."""
        self.operate(Operation.ADD, d, b)

    def adc(self, d: Register, b: Operand) -> None:
        """Emit ``d = d + b + C``, Z for the whole number."""
        self.operate(Operation.ADC, d, b)

    def sub(self, d: Register, b: Operand) -> None:
        """Emit ``d = d - b``; C: no borrow."""
        self.operate(Operation.SUB, d, b)

    def sbc(self, d: Register, b: Operand) -> None:
        """Emit ``d = d - b`` with borrow, Z for the whole number."""
        self.operate(Operation.SBC, d, b)

    def cmp(self, a: Register, b: Operand) -> None:
        """Emit the flags of ``a - b``."""
        self.operate(Operation.CMP, a, b)

    def cpc(self, a: Register, b: Operand) -> None:
        """Emit the flags of ``a - b`` with borrow, Z for the whole number."""
        self.operate(Operation.CPC, a, b)

    def out(self, port: Port, b: Operand) -> None:
        """Emit ``port = b``."""
        self._emit(Control.OUT << 4, Port(port), b, shift=0)

    def jump(
        self, target: str, when: Condition = Condition.ALWAYS, *, unless: bool = False
    ) -> None:
        """Emit a jump to ``target`` if (``unless``: if not) the condition holds."""
        condition = Condition(when) | (INVERT if unless else 0)
        self._words.append(_Reference(Control.JUMP << 4, condition, target=target))

    def call(self, link: Register, target: str) -> None:
        """Emit a call of ``target``, which returns with ``ret(link)``."""
        self._words.append(_Reference(Control.CALL << 4, link.number, target=target))

    def ret(self, link: Operand) -> None:
        """Emit a jump to the place that ``link`` holds."""
        self._emit(Control.JR << 4, 0, link, shift=0)

    # ---------------------------------------------------------------------------------- assembly

    def assemble(self, *, words: int) -> Microprogram:
        """Return the microprogram, of at most ``words`` words.

        Raises
        ------
        AssemblyError
            A label that is not defined, too many words, too many registers and constants.
        """
        if len(self._words) > words:
            raise AssemblyError(f"the microprogram has {len(self._words)} words, more than {words}")
        constants = {value: number for number, value in self._initial.items()}
        first = self._most

        def target(name: str) -> int:
            if name not in self._labels:
                raise AssemblyError(f"label {name!r} is not defined")
            place = self._labels[name]
            if place >> TARGET_BITS:
                raise AssemblyError(f"label {name!r} is at {place}: beyond {1 << TARGET_BITS}")
            return place

        def constant(item: _Reference) -> int:
            """Return the word of ``item``: with an immediate, if it is a short one."""
            value = item.constant
            assert value is not None
            number = target(value.label) if isinstance(value, Address) else value
            if number <= 0xFF:
                return _word(item.op | Mode.IMMEDIATE << item.shift, item.d, number)
            if number not in constants:
                place = first + len(constants) - len(self._initial)
                if place >= REGISTER_MAP:
                    raise AssemblyError(
                        f"{first} registers and more than {place - first} constants are more than "
                        f"{REGISTER_MAP}"
                    )
                constants[number] = place
            return _word(item.op | Mode.REGISTER << item.shift, item.d, constants[number])

        result = []
        for item in self._words:
            if isinstance(item, int):
                result.append(item)
            elif item.target is not None:
                place = target(item.target)
                result.append(_word(item.op | place >> 8, item.d, place & 0xFF))
            else:
                result.append(constant(item))
        names: dict[int, str] = {}
        for register in self._registers.values():
            others = [names[register.number]] if register.number in names else []
            names[register.number] = " / ".join([*others, register.name])
        names |= {number: f"{value:#06x}" for value, number in constants.items()}
        return Microprogram(
            tuple(result),
            {number: value for value, number in constants.items()},
            dict(self._labels),
            names,
        )


def _word(op: int, d: int, s: int) -> int:
    assert 0 <= op <= 0xFF and 0 <= d <= 0xFF and 0 <= s <= 0xFF
    return op << 16 | d << 8 | s
