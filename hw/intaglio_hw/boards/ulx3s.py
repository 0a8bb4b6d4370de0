"""The Radiona ULX3S: what goes around the accelerator on it, and its pins."""

from dataclasses import dataclass

from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.link import GAP_SECONDS
from intaglio_hw.boards.pll import ClockGenerator, PllSettings, pll_settings
from intaglio_hw.soc.memory import check_memory_bytes
from intaglio_hw.soc.system import SerialSystem
from intaglio_hw.soc.uart import baud_divisor

__all__ = ["BAUD", "OSCILLATOR_MHZ", "Pin", "Ulx3sTop", "board_top", "constraints", "pins"]

#: The board's oscillator.
OSCILLATOR_MHZ = 25.0
#: Rate of the serial line: a third of what the board's FT231X reaches, without a remainder.
BAUD = 1_000_000
_LEDS = 3
#: Bit of the counter of cycles that the first LED shows.
_HEARTBEAT_BITS = 26


class Ulx3sTop(wiring.Component):
    """Clock, serial line, LEDs and the :class:`~intaglio_hw.soc.system.SerialSystem`.

    Parameters
    ----------
    config
        The accelerator.
    memory_bytes
        Of block RAM.
    settings
        Of the PLL.
    divisor
        Clock cycles of a bit on the serial line.
    gap_cycles
        See :class:`~intaglio_hw.soc.bridge.UartBridge`.
    family
        ``"ecp5"``, or ``"generic"`` for simulation: the clock is then the oscillator's.

    Members
    -------
    clk25
        The oscillator.
    reset
        The button F1, high while pressed: resets all but the memory's contents.
    uart_rx, uart_tx
        The board's USB serial converter.
    led
        Bit 0 flickers while the clock runs, bit 1: the bridge is busy, bit 2: the interrupt line.
    wifi_gpio0
        High: the ESP32 of the board does not take over.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        memory_bytes: int,
        settings: PllSettings,
        divisor: int,
        gap_cycles: int,
        family: str = "generic",
    ) -> None:
        self.config, self.settings, self.family = config, settings, family
        self._system = {
            "config": config,
            "memory_bytes": memory_bytes,
            "clock_hz": round(settings.mhz * 1e6),
            "divisor": divisor,
            "gap_cycles": gap_cycles,
            "family": family,
        }
        super().__init__(
            {
                "clk25": In(1),
                "reset": In(1),
                "uart_rx": In(1, init=1),
                "uart_tx": Out(1, init=1),
                "led": Out(_LEDS),
                "wifi_gpio0": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clock = clock = ClockGenerator(settings=self.settings, family=self.family)
        m.submodules.system = system = SerialSystem(**self._system)
        heartbeat = Signal(_HEARTBEAT_BITS)
        m.d.sync += heartbeat.eq(heartbeat + 1)
        m.d.comb += [
            clock.oscillator.eq(self.clk25),
            clock.reset.eq(self.reset),
            system.rx.eq(self.uart_rx),
            self.uart_tx.eq(system.tx),
            self.led[0].eq(heartbeat[-1]),
            self.led[1].eq(system.active),
            self.led[2].eq(system.interrupt),
            self.wifi_gpio0.eq(1),
        ]
        return m


def board_top(
    config: AcceleratorConfig,
    *,
    memory_bytes: int,
    frequency_mhz: float,
    baud: int = BAUD,
    family: str = "ecp5",
) -> Ulx3sTop:
    """Return the top for a clock of at most ``frequency_mhz``.

    Raises
    ------
    ValueError
        The PLL does not reach the frequency, the clock does not suit ``baud``, or no memory has the
        size.
    """
    settings = pll_settings(OSCILLATOR_MHZ, frequency_mhz)
    clock_hz = round(settings.mhz * 1e6)
    return Ulx3sTop(
        config=config,
        memory_bytes=check_memory_bytes(memory_bytes),
        settings=settings,
        divisor=baud_divisor(clock_hz, baud),
        gap_cycles=round(GAP_SECONDS * clock_hz),
        family=family,
    )


@dataclass(frozen=True)
class Pin:
    """A bit of a port, the ball of the package, and the attributes of its buffer."""

    bit: str
    site: str
    attributes: tuple[tuple[str, str], ...]


#: Port -> (resource of amaranth-boards, its number, its part).
_RESOURCES = {
    "clk25": ("clk25", 0, None),
    "reset": ("button_fire", 0, None),
    "uart_rx": ("uart", 0, "rx"),
    "uart_tx": ("uart", 0, "tx"),
    **{f"led[{i}]": ("led", i, None) for i in range(_LEDS)},
    "wifi_gpio0": ("esp32", 0, "gpio0"),
}


def pins() -> list[Pin]:
    """Return the pins of :class:`Ulx3sTop`, as amaranth-boards knows them."""
    from amaranth_boards.ulx3s import ULX3S_85F_Platform

    resources = {(item.name, item.number): item for item in ULX3S_85F_Platform.resources}
    found = []
    for bit, (name, number, part) in _RESOURCES.items():
        item = resources[name, number]
        attributes = dict(item.attrs)
        if part is not None:
            item = next(each for each in item.ios if each.name == part)
            attributes |= item.attrs
        (pin,) = item.ios
        (site,) = pin.names
        found.append(Pin(bit, site, tuple((key, str(value)) for key, value in attributes.items())))
    return found


def constraints() -> str:
    """Return pins, buffers and the oscillator's frequency for nextpnr, in Lattice's LPF."""
    lines = [f'FREQUENCY PORT "clk25" {OSCILLATOR_MHZ:g} MHZ;']
    for pin in pins():
        lines.append(f'LOCATE COMP "{pin.bit}" SITE "{pin.site}";')
        settings = " ".join(f"{key}={value}" for key, value in pin.attributes)
        lines.append(f'IOBUF PORT "{pin.bit}" {settings};')
    return "\n".join(lines) + "\n"
