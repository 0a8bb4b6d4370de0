"""The register map of the AXI4-Lite port: one table for RTL, driver, C header and documentation."""

from dataclasses import dataclass

from intaglio.spec.isa import Field

__all__ = ["COUNTERS", "IDENTITY", "REGISTERS", "VERSION", "Register", "register"]

#: "INTA" as read from memory, little endian.
IDENTITY = 0x41544E49
#: Version of the register map and the instruction set: major << 16 | minor.
VERSION = 0x0001_0000


@dataclass(frozen=True)
class Register:
    """A 32-bit register.

    ``access``: ``"ro"`` read only; ``"rw"`` read and write; ``"w1"`` writing a one acts, reads as
    zero; ``"w1c"`` writing a one clears the bit. Writes to a read-only register, and accesses
    outside the map, are answered with SLVERR and do nothing. Writes to ``rw`` registers while the
    machine is busy are answered with SLVERR and do nothing, except ``interrupt_enable``.
    """

    name: str
    address: int
    access: str
    description: str
    fields: tuple[Field, ...] = ()


#: Performance counters, 32 bits each, cleared by start, frozen when the machine stops.
COUNTERS = (
    ("cycles", "cycles from start until the machine stopped"),
    ("array_busy", "cycles in which the array multiplied a vector (padding positions included)"),
    (
        "array_wait_load",
        "cycles in which the array unit had an instruction that waited for a token from load",
    ),
    ("array_wait_vector", "the same, for a token from vector (and none missing from load)"),
    ("vector_busy", "cycles in which the vector unit was running an instruction"),
    ("vector_wait_load", "cycles in which the vector unit waited for a token from load"),
    ("vector_wait_array", "the same, for a token from array (and none missing from load)"),
    ("vector_wait_store", "the same, for a token from store (and none missing from load, array)"),
    ("load_busy", "cycles in which the load unit was running an instruction"),
    ("load_wait", "cycles in which the load unit waited for a token"),
    ("store_busy", "cycles in which the store unit was running an instruction"),
    ("store_wait", "cycles in which the store unit waited for a token"),
    ("read_beats", "beats read from memory by load, each R bytes"),
    ("write_beats", "beats written to memory"),
    ("fetch_beats", "beats of instructions read from memory"),
    ("instructions", "instructions that have finished, end not counted"),
)

_STATUS = (
    Field("busy", 1, "running"),
    Field("done", 1, "the last program reached end"),
    Field("failed", 1, "the last program stopped with an error"),
)
_INTERRUPT = (
    Field("done", 1, "the program reached end"),
    Field("failed", 1, "the program stopped with an error"),
)

#: The register map. Counters follow at 0x80.
REGISTERS = (
    Register("identity", 0x00, "ro", "the letters INTA"),
    Register(
        "version",
        0x04,
        "ro",
        "version of the register map and instruction set",
        (Field("minor", 16, "compatible additions"), Field("major", 16, "incompatible changes")),
    ),
    Register(
        "lanes",
        0x08,
        "ro",
        "lanes of this machine",
        (
            Field("R", 8, "reduction lanes, bytes of a vector and of the bus"),
            Field("K", 8, "output lanes"),
            Field("drain_lanes", 8, "lanes of the vector unit"),
        ),
    ),
    Register("config", 0x0C, "ro", "lowest 32 bits of the configuration's digest"),
    Register(
        "control",
        0x10,
        "w1",
        "actions",
        (
            Field("start", 1, "start the program; ignored while busy"),
            Field("stop", 1, "stop as soon as the bus allows, error NONE, failed"),
        ),
    ),
    Register("status", 0x14, "ro", "state", _STATUS),
    Register(
        "error",
        0x18,
        "ro",
        "why the last program failed",
        (Field("code", 8, "see the error codes"),),
    ),
    Register("error_instruction", 0x1C, "ro", "index of the instruction that caused the error"),
    Register("interrupt_enable", 0x20, "rw", "which events raise the interrupt", _INTERRUPT),
    Register("interrupt_status", 0x24, "w1c", "events since they were cleared", _INTERRUPT),
    Register("program_base", 0x28, "rw", "byte offset of the program in memory, a multiple of 64"),
    Register("program_length", 0x2C, "rw", "instructions in the program, end included"),
    Register("memory_base", 0x30, "rw", "bus address of memory offset 0, a multiple of 4096"),
    Register(
        "memory_bytes", 0x34, "rw", "bytes of memory that the program may use, a multiple of R"
    ),
    Register(
        "cycle_limit", 0x38, "rw", "cycles after which the machine stops with TIMEOUT; 0: no limit"
    ),
    *(Register(name, 0x80 + 4 * index, "ro", text) for index, (name, text) in enumerate(COUNTERS)),
)


def register(name: str) -> Register:
    """Return the register ``name``; KeyError with the known names otherwise."""
    for item in REGISTERS:
        if item.name == name:
            return item
    raise KeyError(f"unknown register {name!r}; known: {', '.join(r.name for r in REGISTERS)}")
