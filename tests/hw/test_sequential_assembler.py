"""The assembler: words as the engine decodes them, and what it refuses."""

import pytest

from intaglio_hw.sequential.assembler import Address, Assembler, AssemblyError
from intaglio_hw.sequential.interface import Condition, Port, Source


def test_words() -> None:
    a = Assembler()
    x, y = a.registers("x", "y")
    a.label("begin")
    a.mov(x, y)
    a.add(x, 200)
    a.adc(x, Source.PL)
    a.cmp(x, 300)
    a.sub(x, -1)
    a.out(Port.SPA, 7)
    a.out(Port.SPWI, x)
    a.jump("end", Condition.Z, unless=True)
    a.call(y, "begin")
    a.ret(y)
    a.label("end")
    a.mov(x, Address("end"))
    made = a.assemble(words=16)
    assert [f"{word:06x}" for word in made.words] == [
        "000001",
        "5000c8",
        "910006",
        "160002",  # 300 is in register 2
        "120003",
        "f10007",
        "f00200",
        "c0110a",
        "d00100",
        "e00001",
        "40000a",
    ]
    assert made.registers == {2: 300, 3: 0xFFFF}
    assert made.labels == {"begin": 0, "end": 10}
    assert made.place(3) == "begin+3"


def test_an_address_beyond_a_byte_is_a_constant() -> None:
    a = Assembler()
    x = a.register("x")
    for _ in range(300):
        a.mov(x, x)
    a.label("late")
    a.mov(x, Address("late"))
    made = a.assemble(words=512)
    assert made.words[300] == 0x000001 and made.registers == {1: 300}


def test_scopes_share_registers() -> None:
    a = Assembler()
    a.register("of all")
    with a.scope():
        one = a.registers("one", "two")
    with a.scope():
        other = a.register("three")
    assert one[0].number == other.number == 1
    a.mov(other, 1000)
    assert a.assemble(words=1).registers == {3: 1000}


def test_the_register_map() -> None:
    low, high = Assembler.mapped("cycles")
    assert (low.number, high.number) == (0xE0, 0xE1)


def test_refusals() -> None:
    a = Assembler()
    x = a.register("x")
    with pytest.raises(AssemblyError, match="register 'x' exists already"):
        a.register("x")
    a.label("here")
    with pytest.raises(AssemblyError, match="label 'here' exists already"):
        a.label("here")
    with pytest.raises(AssemblyError, match="70000 has more than 16 bits"):
        a.mov(x, 70000)
    with pytest.raises(AssemblyError, match="'y' is no operand"):
        a.mov(x, "y")
    with pytest.raises(AssemblyError, match="MOV: 3 is no register"):
        a.mov(3, x)
    a.jump("nowhere")
    with pytest.raises(AssemblyError, match="label 'nowhere' is not defined"):
        a.assemble(words=9)
    a.label("nowhere")
    a.mov(x, 1)
    with pytest.raises(AssemblyError, match="has 2 words, more than 1"):
        a.assemble(words=1)
    for number in range(191):
        a.register(f"r{number}")
    with pytest.raises(AssemblyError, match="no register is left for 'last': there are 192"):
        a.register("last")
    a.mov(x, 1000)
    with pytest.raises(AssemblyError, match="192 registers and more than 0 constants"):
        a.assemble(words=9)
