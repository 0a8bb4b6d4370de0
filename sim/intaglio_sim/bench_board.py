"""The cocotb side of a simulated board: its UART pins behind a pseudo-terminal.

Runs inside the simulator, started by intaglio_sim.simulated_board. Every byte goes through the
pins, bit by bit.
"""

import os
import tty
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

from intaglio_sim.bfm.clock import PERIOD_NS

#: Environment variables: folder in which ``port`` and ``stop`` appear; cycles of a bit; level of
#: the button while it is not pressed.
FOLDER_VARIABLE, DIVISOR_VARIABLE = "INTAGLIO_BOARD_FOLDER", "INTAGLIO_BOARD_DIVISOR"
RELEASED_VARIABLE = "INTAGLIO_BOARD_RELEASED"
#: Bits of silence between two looks at an idle terminal.
_IDLE_BITS = 30


async def _send(dut, byte: int, bit_ns: int) -> None:
    """Drive a byte onto the pin: start bit, data from the lowest bit on, stop bit."""
    frame = (1 << 9) | (byte << 1)
    position = 0
    while position < 10:
        level, width = frame >> position & 1, 1
        while position + width < 10 and frame >> (position + width) & 1 == level:
            width += 1
        dut.uart_rx.value = level
        await Timer(width * bit_ns, "ns")
        position += width


async def _receive(dut, bit_ns: int, terminal: int) -> None:
    """Pass on the bytes on the pin."""
    while True:
        await FallingEdge(dut.uart_tx)
        await Timer(bit_ns + bit_ns // 2, "ns")
        byte = 0
        for position in range(8):
            byte |= int(dut.uart_tx.value) << position
            await Timer(bit_ns, "ns")
        assert int(dut.uart_tx.value), "a byte without a stop bit"
        os.write(terminal, bytes([byte]))


@cocotb.test()
async def serve(dut):
    folder = Path(os.environ[FOLDER_VARIABLE])
    bit_ns = int(os.environ[DIVISOR_VARIABLE]) * PERIOD_NS
    terminal, other = os.openpty()
    tty.setraw(other)  # kept open: the terminal outlives the host's open and close
    os.set_blocking(terminal, False)
    dut.uart_rx.value, dut.button.value = 1, int(os.environ[RELEASED_VARIABLE])
    Clock(dut.oscillator, PERIOD_NS, unit="ns").start(start_high=False)
    await Timer(20 * bit_ns, "ns")
    cocotb.start_soon(_receive(dut, bit_ns, terminal))
    temporary = folder / "port.new"
    temporary.write_text(os.ttyname(other), encoding="utf-8")
    temporary.rename(folder / "port")
    while not (folder / "stop").exists():
        try:
            data = os.read(terminal, 4096)
        except BlockingIOError:
            await Timer(_IDLE_BITS * bit_ns, "ns")
            continue
        for byte in data:
            await _send(dut, byte, bit_ns)
    os.close(terminal)
    os.close(other)
