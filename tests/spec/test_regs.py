"""The register map."""

import pytest

from intaglio.spec import regs


def test_map() -> None:
    addresses = [item.address for item in regs.REGISTERS]
    names = [item.name for item in regs.REGISTERS]
    assert len(set(addresses)) == len(addresses)
    assert len(set(names)) == len(names)
    assert addresses == sorted(addresses)
    assert all(address % 4 == 0 and 0 <= address < 0x100 for address in addresses)
    for item in regs.REGISTERS:
        assert item.access in ("ro", "rw", "w1", "w1c")
        assert sum(field.width for field in item.fields) <= 32
        assert item.description


def test_counters_follow_each_other() -> None:
    for index, (name, text) in enumerate(regs.COUNTERS):
        found = regs.register(name)
        assert (found.address, found.access, found.description) == (0x80 + 4 * index, "ro", text)


def test_identity_reads_as_letters() -> None:
    assert regs.IDENTITY.to_bytes(4, "little") == b"INTA"
    assert regs.register("identity").address == 0
    assert regs.VERSION >> 16 >= 1


def test_unknown_register() -> None:
    with pytest.raises(KeyError, match="unknown register 'speed'; known: identity, version, lanes"):
        regs.register("speed")
