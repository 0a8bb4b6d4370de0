"""An asynchronous serial line: 8 data bits, no parity, 1 stop bit, lowest bit first."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["LEAST_DIVISOR", "UartReceiver", "UartTransmitter", "baud_divisor"]

#: Fewest clock cycles of a bit: the receiver samples in the middle of it.
LEAST_DIVISOR = 4
#: Largest error of the rate: half a bit over the ten of a byte, shared by both sides.
_MOST_ERROR = 0.02


def baud_divisor(clock_hz: int, baud: int) -> int:
    """Return the clock cycles of a bit at ``baud`` bits per second.

    Raises
    ------
    ValueError
        The clock is too slow, or no whole number of cycles comes within 2 % of the rate.
    """
    if baud < 1:
        raise ValueError(f"baud must be at least 1, not {baud}")
    divisor = round(clock_hz / baud)
    if clock_hz < LEAST_DIVISOR * baud:
        raise ValueError(
            f"baud must be at most clock / {LEAST_DIVISOR} = {clock_hz // LEAST_DIVISOR}, "
            f"not {baud}"
        )
    error = abs(clock_hz / divisor / baud - 1)
    if error > _MOST_ERROR:
        raise ValueError(
            f"baud {baud} is {100 * error:.1f} % away from {clock_hz} / {divisor}; at most "
            f"{100 * _MOST_ERROR:.0f} % are allowed"
        )
    return divisor


def _check_divisor(divisor: int) -> int:
    if divisor < LEAST_DIVISOR:
        raise ValueError(f"divisor must be at least {LEAST_DIVISOR}, not {divisor}")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    Parameters
    ----------
    divisor
        Clock cycles of a bit, at least LEAST_DIVISOR.

    Members
    -------
    rx
        The line, asynchronous; high when idle.
    o
        The bytes. ``valid`` is high for one cycle, in the middle of the stop bit: whoever is not
        ready then misses the byte. A byte whose stop bit is low is dropped.
    """

    def __init__(self, *, divisor: int) -> None:
        self.divisor = _check_divisor(divisor)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        rx, before = Signal(init=1), Signal(init=1)
        m.d.sync += before.eq(rx)
        m.submodules.synchronizer = FFSynchronizer(self.rx, rx, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2))
        bits = Signal(range(10))
        shift = Signal(8, reset_less=True)
        m.d.comb += self.o.payload.eq(shift)
        with m.If(bits == 0):
            # Idle: a falling line begins a start bit; the first sample is in the middle of bit 0.
            with m.If(before & ~rx):
                m.d.sync += [bits.eq(9), timer.eq(self.divisor + self.divisor // 2 - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [bits.eq(bits - 1), timer.eq(self.divisor - 1)]
            with m.If(bits == 1):
                m.d.comb += self.o.valid.eq(rx)
            with m.Else():
                m.d.sync += shift.eq(Cat(shift[1:], rx))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Parameters
    ----------
    divisor
        Clock cycles of a bit, at least LEAST_DIVISOR.

    Members
    -------
    i
        The bytes; one is taken every ``10 * divisor`` cycles.
    tx
        The line, from a register; high when idle.
    """

    def __init__(self, *, divisor: int) -> None:
        self.divisor = _check_divisor(divisor)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self.divisor))
        bits = Signal(range(11))
        shift = Signal(9, init=-1)
        m.d.comb += self.i.ready.eq((bits == 0) | ((bits == 1) & (timer == 0)))
        with m.If(self.i.ready):
            m.d.sync += [self.tx.eq(1), bits.eq(0)]
            with m.If(self.i.valid):
                m.d.sync += [
                    self.tx.eq(0),
                    shift.eq(Cat(self.i.payload, Const(1, 1))),
                    bits.eq(10),
                    timer.eq(self.divisor - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                self.tx.eq(shift[0]),
                shift.eq(Cat(shift[1:], Const(1, 1))),
                bits.eq(bits - 1),
                timer.eq(self.divisor - 1),
            ]
        return m
