"""What all parts of the microprogram share: registers, names of places, and small macros."""

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error
from intaglio_hw.sequential.assembler import Assembler, Operand, Register
from intaglio_hw.sequential.interface import Condition, Source
from intaglio_hw.sequential.layout import WORDS, Layout

__all__ = ["TABLE", "Context", "fail_label"]

#: The instruction of each unit.
TABLE = {item.unit: item for item in isa.INSTRUCTIONS if item.unit is not None}
#: Bits of the largest depth that the microprogram's arithmetic holds.
_DEPTH_BITS = 12


def fail_label(error: Error) -> str:
    """Return the label that ends the program with ``error``, of the instruction in ``at``."""
    return f"fail.{error.name}"


class Context:
    """The assembler, and the registers that more than one part uses.

    ``f``: the 32 words of the instruction at hand. ``at``: the index that an error reports.
    ``t``, ``u``: for a few instructions in a row; every subroutine may change them.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        for name in ("ifm", "wgt", "vec", "ofm", "prm", "acc"):
            depth = getattr(config, f"{name}_depth")
            if depth > 1 << _DEPTH_BITS:
                raise ValueError(f"{name}_depth must be at most {1 << _DEPTH_BITS}, not {depth}")
        if (config.R, config.K, config.drain_lanes) != (8, 1, 1):
            raise ValueError(
                "R, K and drain_lanes must be 8, 1 and 1, not "
                f"{config.R}, {config.K} and {config.drain_lanes}"
            )
        self.config = config
        self.layout = Layout.of(config)
        self.a = a = Assembler()
        self.f = tuple(a.register(f"f{word}") for word in range(WORDS))
        # Fields that are not words by themselves: the same registers for all instructions.
        self._pool: list[Register] = []
        self.fields = {item.name: self._place(item) for item in isa.INSTRUCTIONS}
        self.t, self.u = a.registers("t", "u")
        self.at = a.wide("at")
        # A burst, or several: see transfer.
        self.bus = a.wide("bus")
        self.beats, self.place, self.direction, self.transfer = a.registers(
            "beats", "place", "direction", "transfer link"
        )
        self.pointer = a.register("pointer")
        self._positive = a.constant(0x7FFF)

    def _place(self, instruction: isa.Instruction) -> dict[str, tuple[Register, ...]]:
        """Return the registers of each field behind the header: its own words; or the word of its
        first byte, if no field follows in it; or another one.
        """
        result: dict[str, tuple[Register, ...]] = {}
        taken = 0
        for field, offset in instruction.offsets().values():
            word, rest = divmod(offset, 16)
            if offset < 16:
                continue
            if rest == 0 and field.width % 16 == 0:
                result[field.name] = self.f[word : word + field.width // 16]
                continue
            assert field.width in (8, 16)
            if rest or instruction.width == offset + field.width:
                result[field.name] = (self.f[word],)
                continue
            if taken == len(self._pool):
                self._pool.append(self.a.register(f"field{taken}"))
            result[field.name] = (self._pool[taken],)
            taken += 1
        return result

    def field(self, instruction: isa.Instruction, name: str) -> Register:
        """Return the register of a field of at most 16 bits."""
        (found,) = self.fields[instruction.name][name]
        return found

    # -------------------------------------------------------------------------------- macros

    def fail(
        self, error: Error, when: Condition = Condition.ALWAYS, *, unless: bool = False
    ) -> None:
        """End the program with ``error`` if the condition holds."""
        self.a.jump(fail_label(error), when, unless=unless)

    def sign(self, d: Register, x: Register) -> None:
        """Set ``d`` to what is above ``x`` as a signed number: 0 or 0xFFFF."""
        self.a.cmp(self._positive, x)
        self.a.sbc(d, d)

    def add_product(self, total: tuple[Register, ...], x: Register, y: Operand) -> None:
        """Add the product of two unsigned numbers to ``total`` of two words."""
        self.a.mul(x, y)
        self.a.add(total[0], Source.PL)
        self.a.adc(total[1], Source.PHU)

    def below(self, total: tuple[Register, ...], depth: int) -> None:
        """End with BUFFER unless ``total`` of two words is below ``depth``."""
        self.a.cmp(total[1], 0)
        self.fail(Error.BUFFER, Condition.Z, unless=True)
        self.a.cmp(total[0], depth)
        self.fail(Error.BUFFER, Condition.C)

    def move(self, d: tuple[Register, ...], s: tuple[Operand, ...]) -> None:
        """Copy a wide number."""
        for to, source in zip(d, s, strict=True):
            self.a.mov(to, source)

    def add_wide(self, d: tuple[Register, ...], s: tuple[Operand, ...]) -> None:
        """Add a wide number; C, Z, N, V are of the whole sum."""
        for number, (to, source) in enumerate(zip(d, s, strict=True)):
            (self.a.adc if number else self.a.add)(to, source)

    def subtract_wide(self, d: tuple[Register, ...], s: tuple[Operand, ...]) -> None:
        """Subtract a wide number; flags as for :meth:`add_wide`."""
        for number, (to, source) in enumerate(zip(d, s, strict=True)):
            (self.a.sbc if number else self.a.sub)(to, source)

    def compare_wide(self, x: tuple[Register, ...], y: tuple[Operand, ...]) -> None:
        """Compare wide numbers."""
        for number, (one, other) in enumerate(zip(x, y, strict=True)):
            (self.a.cpc if number else self.a.cmp)(one, other)

    def times(self, d: Register, factor: int) -> None:
        """Multiply ``d`` by a power of two."""
        while factor > 1:
            self.a.add(d, d)
            factor //= 2

    def words_at(self, name: str) -> int:
        """Return the word address of a region of the scratchpad memory."""
        return 4 * self.layout.regions[name]
