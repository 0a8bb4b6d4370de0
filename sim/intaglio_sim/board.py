"""The host's side of a board on a serial port: the link, and the accelerator behind it."""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from intaglio.spec import link
from intaglio.spec.errors import IntaglioError
from intaglio.spec.link import Command, Request, Response, Status
from intaglio.spec.program import Placement, Program, write_value
from intaglio_sim.driver import Driver, Outcome, RegisterError

__all__ = ["Board", "BoardBackend", "Port", "SerialLink", "open_port"]

#: Times that a request is sent before the link is given up.
ATTEMPTS = 5
#: Seconds from look to look at the interrupt line.
_POLL_SECONDS = 0.002


class Port(Protocol):
    """A serial port, as pyserial's ``Serial`` has it."""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, fewer when the port's time-out has passed."""

    def write(self, data: bytes) -> int | None:
        """Send ``data``."""

    def reset_input_buffer(self) -> None:
        """Forget what has arrived."""

    def close(self) -> None:
        """Close the port."""


def open_port(path: str, *, baud: int, timeout_s: float) -> Port:
    """Open the serial port ``path`` at ``baud`` bits per second, 8N1, for this process alone.

    Raises
    ------
    IntaglioError
        No such port, it is in use, or it does not know the rate.
    """
    import serial

    try:
        port = serial.Serial(path, baud, timeout=timeout_s, write_timeout=timeout_s, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        # pyserial repeats the path and the system's own words inside of its message.
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else error
        if number in (errno.EAGAIN, errno.EBUSY):
            reason = "another process has it"
        raise IntaglioError(f"{path}: cannot open the serial port: {reason}") from error
    # Otherwise a converter may keep the end of a response for 16 ms. A pseudo-terminal or a driver
    # that does not know the mode is slower, not wrong.
    with contextlib.suppress(OSError, ValueError, NotImplementedError):
        port.set_low_latency_mode(True)
    return port


class SerialLink:
    """Sends requests, waits for their responses, and repeats what was lost.

    Parameters
    ----------
    port
        An open port.
    name
        What errors call it.
    gap_s
        Seconds to wait before a repetition: the bridge has then forgotten what it had of the
        request.
    """

    def __init__(self, port: Port, *, name: str, gap_s: float = 2 * link.GAP_SECONDS) -> None:
        self.port, self.name, self._gap_s = port, name, gap_s
        self._sequence = 0
        #: Requests that were sent again.
        self.repeated = 0

    def request(self, command: Command, address: int, length: int, payload: bytes = b"") -> bytes:
        """Carry out a request and return the payload of its response.

        Raises
        ------
        RegisterError
            A register refused the access.
        IntaglioError
            No response, the memory refused the access, or the bridge does not know the request.
        """
        self._sequence = (self._sequence + 1) % 256
        frame = Request(
            command=command,
            sequence=self._sequence,
            length=length,
            address=address,
            payload=payload,
        ).encode()
        for attempt in range(ATTEMPTS):
            if attempt:
                self.repeated += 1
                time.sleep(self._gap_s)
                self.port.reset_input_buffer()
            self._send(frame)
            response = self._receive(length)
            if response is not None:
                return self._payload(response, command, address, length)
        raise IntaglioError(
            f"{self.name}: no response after {ATTEMPTS} attempts: is this the board's port, is "
            f"--baud the bitstream's, and is that loaded?"
        )

    def _send(self, frame: bytes) -> None:
        try:
            self.port.write(frame)
        except OSError as error:  # pyserial's errors are OSErrors
            raise IntaglioError(f"{self.name}: cannot write: {error}") from error

    def _read(self, size: int) -> bytes:
        try:
            return self.port.read(size)
        except OSError as error:
            raise IntaglioError(f"{self.name}: cannot read: {error}") from error

    def _receive(self, length: int) -> Response | None:
        """Return the response to the present request; None when it does not come or is damaged."""
        least = Response.frame_bytes(0)
        # What is not the response is skipped; more than its size of that is a lost cause.
        skipped = 0
        while skipped <= Response.frame_bytes(length):
            first = self._read(1)
            if not first:
                return None
            if first[0] != link.RESPONSE_SYNC:
                skipped += 1
                continue
            frame = first + self._read(least - 1)
            if len(frame) < least:
                return None
            payload_bytes = int.from_bytes(frame[3:5], "little")
            if payload_bytes > length:
                return None
            frame += self._read(payload_bytes) if payload_bytes else b""
            try:
                response = Response.decode(frame)
            except IntaglioError:
                return None
            if response.sequence == self._sequence:
                return response
            skipped += len(frame)
        return None

    def _payload(self, response: Response, command: Command, address: int, length: int) -> bytes:
        if response.status == Status.OK:
            if len(response.payload) != (0 if command & 1 else length):
                raise IntaglioError(
                    f"{self.name}: {len(response.payload)} bytes in the response to "
                    f"{command.name} of {length} bytes"
                )
            return response.payload
        if response.status == Status.REFUSED:
            raise RegisterError(f"{command.name} of {address:#x} was refused by {self.name}")
        known = response.status in set(Status)
        name = Status(response.status).name if known else response.status
        raise IntaglioError(
            f"{self.name}: {command.name} of {length} bytes at {address:#x} failed: {name}"
        )


class BoardBackend:
    """Registers, memory and interrupt of a board; a ``Backend`` of the driver.

    Parameters
    ----------
    serial
        The link.
    timeout_s
        Seconds that :meth:`wait_interrupt` waits.
    progress
        Receives (bytes done, bytes in all) of a transfer, after each request.

    Raises
    ------
    IntaglioError
        What answers is not the bridge, or one of another version.
    """

    def __init__(
        self,
        serial: SerialLink,
        *,
        timeout_s: float = 60.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.serial, self._timeout_s, self._progress = serial, timeout_s, progress
        self.write32(link.bridge_register("session").address, 0)
        version = self._own("session")
        if version >> 16 != link.LINK_VERSION >> 16:
            raise IntaglioError(
                f"{serial.name}: link version {version >> 16}.{version & 0xFFFF}, expected "
                f"{link.LINK_VERSION >> 16}.{link.LINK_VERSION & 0xFFFF}"
            )
        self.memory_bytes = self._own("memory_bytes")
        self.beat_bytes = self._own("beat_bytes")
        self.clock_hz = self._own("clock_hz")

    def _own(self, name: str) -> int:
        return self.read32(link.bridge_register(name).address)

    def read32(self, address: int) -> int:
        """Return the register at ``address``; RegisterError when it is refused."""
        return int.from_bytes(self.serial.request(Command.READ_REGISTER, address, 4), "little")

    def write32(self, address: int, value: int) -> None:
        """Write the register at ``address``; RegisterError when it is refused."""
        self.serial.request(Command.WRITE_REGISTER, address, 4, value.to_bytes(4, "little"))

    def _pieces(self, offset: int, length: int):
        """Yield (offset, length) of the requests of a transfer."""
        if offset % self.beat_bytes or length % self.beat_bytes:
            raise ValueError(
                f"offset and length must be multiples of {self.beat_bytes}, not {offset}, {length}"
            )
        end = offset + length
        if end > self.memory_bytes:
            raise IntaglioError(
                f"{self.serial.name}: bytes up to {end:,} do not fit the board's memory of "
                f"{self.memory_bytes:,}"
            )
        begin = offset
        while offset < end:
            size = min(end, (offset // link.MAX_PAYLOAD + 1) * link.MAX_PAYLOAD) - offset
            yield offset, size
            offset += size
            if self._progress is not None:
                self._progress(offset - begin, length)

    def read_memory(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of memory from ``offset``; both multiples of ``beat_bytes``."""
        return b"".join(
            self.serial.request(Command.READ_MEMORY, at, size)
            for at, size in self._pieces(offset, length)
        )

    def write_memory(self, offset: int, data: bytes) -> None:
        """Write ``data`` to memory at ``offset``; both multiples of ``beat_bytes``."""
        for at, size in self._pieces(offset, len(data)):
            piece = data[at - offset : at - offset + size]
            self.serial.request(Command.WRITE_MEMORY, at, size, piece)

    def wait_interrupt(self) -> bool:
        """Wait for the interrupt line; False when it did not come in time."""
        end = time.monotonic() + self._timeout_s
        while not self._own("interrupt"):
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _spans(program: Program) -> list[tuple[int, int]]:
    """Return (begin, end) of what the host writes before the first image: the memory image without
    the values, which the program computes.
    """
    beat = program.config.bus_bytes
    begin, spans = 0, []
    for value in sorted(program.values.values(), key=lambda item: item.address):
        end = value.address + value.nbytes(beat)
        # Whole beats: what lies in a beat with a constant is written, too.
        first, last = -(-value.address // beat) * beat, end // beat * beat
        if first > begin:
            spans.append((begin, first))
        begin = max(begin, last)
    if begin < program.memory_bytes:
        spans.append((begin, program.memory_bytes))
    return spans


class Board:
    """A program on a board.

    Parameters
    ----------
    backend
        The board.
    program
        Compiled for the configuration that the board has.

    Raises
    ------
    IntaglioError
        Another accelerator or configuration, or the memory is too small for the program.
    """

    def __init__(self, backend: BoardBackend, program: Program) -> None:
        if program.memory_bytes > backend.memory_bytes:
            raise IntaglioError(
                f"{backend.serial.name}: the program needs {program.memory_bytes:,} bytes of "
                f"memory, the board has {backend.memory_bytes:,}: take a smaller image or a "
                f"narrower network"
            )
        self.backend, self.program = backend, program
        self.driver = Driver(backend=backend, config=program.config)
        self.driver.check()
        self._loaded = False

    def run(self, x: np.ndarray) -> Outcome:
        """Run the program on the input ``x`` int8 (C, H, W): load it at first, start, wait.

        Raises
        ------
        MachineError
            The program did not reach its end.
        IntaglioError
            The link failed, or the interrupt did not come.
        """
        program, backend = self.program, self.backend
        if not self._loaded:
            for begin, end in _spans(program):
                backend.write_memory(begin, program.memory[begin:end].tobytes())
            self._loaded = True
        begin, end = self._beats(program.values[program.inputs[0]])
        memory = program.memory.copy()
        write_value(memory, program.values[program.inputs[0]], x, program.config.R)
        backend.write_memory(begin, memory[begin:end].tobytes())
        outcome = self.driver.run(
            instructions=program.instructions.tobytes(),
            program_base=program.program_base,
            memory_bytes=program.memory_bytes,
            load=False,
        )
        outcome.check(program.layers)
        return outcome

    def _beats(self, value: Placement) -> tuple[int, int]:
        """Return (begin, end) of the beats that hold ``value``."""
        beat = self.program.config.bus_bytes
        end = value.address + value.nbytes(beat)
        return value.address // beat * beat, -(-end // beat) * beat

    def read(self, names) -> np.ndarray:
        """Return the memory image with the values ``names`` as the board has them; other values are
        as they were before the run.
        """
        memory = self.program.memory.copy()
        for name in names:
            begin, end = self._beats(self.program.values[name])
            memory[begin:end] = np.frombuffer(
                self.backend.read_memory(begin, end - begin), np.uint8
            )
        return memory
