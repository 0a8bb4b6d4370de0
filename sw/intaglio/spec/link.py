"""The serial link between a host and a board: frames, commands, and the bridge's own registers.

One table for the bridge in hardware, the host's side, and the page in the guide. The host sends a
request and waits for its response before it sends the next one. Numbers are little endian.
"""

import enum
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from intaglio.spec.errors import IntaglioError
from intaglio.spec.regs import Register

__all__ = [
    "BRIDGE_BASE",
    "BRIDGE_REGISTERS",
    "GAP_SECONDS",
    "LINK_VERSION",
    "MAX_PAYLOAD",
    "REQUEST_HEADER",
    "REQUEST_SYNC",
    "RESPONSE_HEADER",
    "RESPONSE_SYNC",
    "Command",
    "FrameField",
    "Request",
    "Response",
    "Status",
    "bridge_register",
    "check_bytes",
]

#: Version of the link: major << 16 | minor.
LINK_VERSION = 0x0001_0000
#: First byte of a request, of a response.
REQUEST_SYNC, RESPONSE_SYNC = 0xC5, 0x5C
#: Most bytes of payload. A transfer to or from memory does not cross a multiple of it, either.
MAX_PAYLOAD = 1024
#: Silence after which the bridge forgets the beginning of a request.
GAP_SECONDS = 0.05
#: Bytes of the check behind a frame.
_CHECK_BYTES = 4


class Command(enum.IntEnum):
    """What a request asks for; the lowest bit is set when it carries a payload."""

    READ_REGISTER = 0x10
    WRITE_REGISTER = 0x11
    READ_MEMORY = 0x20
    WRITE_MEMORY = 0x21

    @property
    def description(self) -> str:
        """Value of the meaning, for people."""
        return _COMMANDS[self]


_COMMANDS = {
    Command.READ_REGISTER: "read the register at `address`; `length` is 4",
    Command.WRITE_REGISTER: "write the register at `address`; `length` is 4",
    Command.READ_MEMORY: "read `length` bytes of memory from the bus address `address` on",
    Command.WRITE_MEMORY: "write `length` bytes of memory from the bus address `address` on",
}


class Status(enum.IntEnum):
    """How a request ended."""

    OK = 0
    REFUSED = 1
    MEMORY = 2
    FORMAT = 3

    @property
    def description(self) -> str:
        """Value of the meaning, for people."""
        return _STATUS[self]


_STATUS = {
    Status.OK: "done",
    Status.REFUSED: "the register refused the access (SLVERR)",
    Status.MEMORY: "the memory refused the access: outside of it",
    Status.FORMAT: "unknown command, or an address or length that it does not allow",
}


class FrameField(NamedTuple):
    """A part of a frame's header: its name, bytes and meaning."""

    name: str
    nbytes: int
    description: str


#: Header of a request, behind the first byte.
REQUEST_HEADER = (
    FrameField("command", 1, "see the commands"),
    FrameField("sequence", 1, "another one than that of the request before, unless it is repeated"),
    FrameField("length", 2, "bytes that are read or written"),
    FrameField("address", 4, "of the register or on the memory bus"),
)
#: Header of a response, behind the first byte.
RESPONSE_HEADER = (
    FrameField("status", 1, "see the statuses"),
    FrameField("sequence", 1, "that of the request"),
    FrameField("length", 2, "bytes of payload; 0 unless the request was a read that succeeded"),
)

#: Address of the first register of the bridge itself, above the accelerator's.
BRIDGE_BASE = 0x1000
#: The bridge's registers: read only, but for ``session``.
BRIDGE_REGISTERS = (
    Register(
        "session",
        0x1000,
        "rw",
        "a host writes it first: never taken for a repetition; reads as the version of the link, "
        "major in the upper half",
    ),
    Register("memory_bytes", 0x1004, "ro", "bytes of memory, at bus address 0"),
    Register("beat_bytes", 0x1008, "ro", "memory addresses and lengths are multiples of it"),
    Register("clock_hz", 0x100C, "ro", "clock of the accelerator, in hertz"),
    Register("interrupt", 0x1010, "ro", "1 while the accelerator's interrupt line is high"),
)


def bridge_register(name: str) -> Register:
    """Return the bridge's register ``name``; KeyError otherwise."""
    for register in BRIDGE_REGISTERS:
        if register.name == name:
            return register
    raise KeyError(f"the bridge has no register {name!r}")


def check_bytes(frame: bytes) -> bytes:
    """Return the check of a frame: CRC-32 (ISO-HDLC, as zlib) of all but its first byte.

    >>> check_bytes(b"." + b"123456789").hex()  # the catalogue's check value 0xCBF43926
    '2639f4cb'
    """
    return zlib.crc32(frame[1:]).to_bytes(_CHECK_BYTES, "little")


def _split(frame: bytes, sync: int, header_bytes: int, kind: str) -> tuple[bytes, bytes]:
    """Return header and payload of a whole frame whose first byte and check are right."""
    least = 1 + header_bytes + _CHECK_BYTES
    if len(frame) < least:
        raise IntaglioError(f"a {kind} has at least {least} bytes, not {len(frame)}")
    if frame[0] != sync:
        raise IntaglioError(f"a {kind} begins with {sync:#04x}, not {frame[0]:#04x}")
    body, check = frame[:-_CHECK_BYTES], frame[-_CHECK_BYTES:]
    if check_bytes(body) != check:
        raise IntaglioError(f"the check of a {kind} is wrong")
    return body[1 : 1 + header_bytes], body[1 + header_bytes :]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request: ``payload`` is empty for a read."""

    command: int
    sequence: int
    length: int
    address: int
    payload: bytes = b""

    HEADER_BYTES = sum(field.nbytes for field in REQUEST_HEADER)

    def encode(self) -> bytes:
        """Return the frame, check included."""
        header = struct.pack(
            "<BBBHI", REQUEST_SYNC, self.command, self.sequence, self.length, self.address
        )
        return header + self.payload + check_bytes(header + self.payload)

    @classmethod
    def decode(cls, frame: bytes) -> "Request":
        """Return the request in a whole frame; IntaglioError when it is damaged."""
        header, payload = _split(frame, REQUEST_SYNC, cls.HEADER_BYTES, "request")
        command, sequence, length, address = struct.unpack("<BBHI", header)
        if len(payload) != (length if command & 1 else 0):
            raise IntaglioError(f"a request of length {length} has {len(payload)} bytes of payload")
        return cls(
            command=command, sequence=sequence, length=length, address=address, payload=payload
        )


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response."""

    status: int
    sequence: int
    payload: bytes = b""

    HEADER_BYTES = sum(field.nbytes for field in RESPONSE_HEADER)

    @classmethod
    def frame_bytes(cls, payload_bytes: int) -> int:
        """Return the bytes of the frame of a response with ``payload_bytes`` of payload."""
        return 1 + cls.HEADER_BYTES + payload_bytes + _CHECK_BYTES

    def encode(self) -> bytes:
        """Return the frame, check included."""
        header = struct.pack("<BBBH", RESPONSE_SYNC, self.status, self.sequence, len(self.payload))
        return header + self.payload + check_bytes(header + self.payload)

    @classmethod
    def decode(cls, frame: bytes) -> "Response":
        """Return the response in a whole frame; IntaglioError when it is damaged."""
        header, payload = _split(frame, RESPONSE_SYNC, cls.HEADER_BYTES, "response")
        status, sequence, length = struct.unpack("<BBH", header)
        if len(payload) != length:
            raise IntaglioError(
                f"a response of length {length} has {len(payload)} bytes of payload"
            )
        return cls(status=status, sequence=sequence, payload=payload)
