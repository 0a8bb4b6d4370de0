"""What goes around the accelerator on a board, and the board's pins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.link import GAP_SECONDS
from intaglio_hw.boards.pll import ClockGenerator, Settings, pll_settings
from intaglio_hw.soc.memory import check_memory_bytes
from intaglio_hw.soc.single_port import check_single_port_bytes
from intaglio_hw.soc.system import SerialSystem
from intaglio_hw.soc.uart import baud_divisor

__all__ = ["BAUD", "BoardPorts", "BoardTop", "Pin", "board_top", "pins"]

#: Rate of the serial line: without a remainder at clocks of whole MHz, and less than a third of
#: what the serial converters of the boards reach.
BAUD = 1_000_000
#: Bit of the counter of cycles that the first LED shows.
_HEARTBEAT_BITS = 26


@dataclass(frozen=True, kw_only=True)
class BoardPorts:
    """The ports of a board's top.

    Parameters
    ----------
    platform
        Class of amaranth-boards that knows the pins, as ``"module:class"``.
    family
        The chip's.
    oscillator
        Resource of that class, and its MHz.
    button
        Resource of the button that resets.
    leds
        How many are used, at most three.
    active_low
        Ports that are low when what they are named for is the case: of ``button`` and ``led``.
    high
        Other outputs, always high: port -> (resource, part).
    single_port
        The memory is single-port RAM.
    """

    platform: str
    family: str
    oscillator: tuple[str, float]
    button: str
    leds: int
    active_low: frozenset[str] = frozenset()
    high: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    single_port: bool = False

    def level(self, port: str, value):
        """Return the level of ``port`` that stands for ``value``, a bit, or the other way round."""
        return ~value & 1 if port in self.active_low else value

    def check_memory_bytes(self, memory_bytes: int, config: AcceleratorConfig) -> int:
        """Return ``memory_bytes``; ValueError if the board's kind of memory has no such size."""
        if self.single_port:
            return check_single_port_bytes(memory_bytes, config)
        return check_memory_bytes(memory_bytes)


class BoardTop(wiring.Component):
    """Clock, serial line, LEDs and the :class:`~intaglio_hw.soc.system.SerialSystem`.

    Parameters
    ----------
    ports
        Of the board.
    config
        The accelerator.
    memory_bytes
        Of its memory.
    settings
        Of the PLL.
    divisor
        Clock cycles of a bit on the serial line.
    gap_cycles
        See :class:`~intaglio_hw.soc.bridge.UartBridge`.
    family
        That of ``ports``, or ``"generic"`` for simulation: the clock is then the oscillator's.

    Members
    -------
    oscillator
        The input clock.
    button
        Resets all but the memory's contents while it is pressed.
    uart_rx, uart_tx
        The board's USB serial converter.
    led
        Bit 0 flickers while the clock runs, bit 1: the bridge is busy, bit 2: the interrupt line.

    Further outputs are those of ``ports.high``; levels are those of ``ports.level``.
    """

    def __init__(
        self,
        *,
        ports: BoardPorts,
        config: AcceleratorConfig,
        memory_bytes: int,
        settings: Settings,
        divisor: int,
        gap_cycles: int,
        family: str = "generic",
    ) -> None:
        self.ports, self.config, self.settings, self.family = ports, config, settings, family
        self._system = {
            "config": config,
            "memory_bytes": memory_bytes,
            "clock_hz": round(settings.mhz * 1e6),
            "divisor": divisor,
            "gap_cycles": gap_cycles,
            "single_port": ports.single_port,
            "family": family,
        }
        super().__init__(
            {
                "oscillator": In(1),
                "button": In(1),
                "uart_rx": In(1, init=1),
                "uart_tx": Out(1, init=1),
                "led": Out(ports.leds),
                **{name: Out(1, init=1) for name in ports.high},
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
            clock.oscillator.eq(self.oscillator),
            clock.reset.eq(self.ports.level("button", self.button)),
            system.rx.eq(self.uart_rx),
            self.uart_tx.eq(system.tx),
        ]
        lights = (heartbeat[-1], system.active, system.interrupt)
        for index, light in enumerate(lights[: self.ports.leds]):
            m.d.comb += self.led[index].eq(self.ports.level("led", light))
        for name in self.ports.high:
            m.d.comb += getattr(self, name).eq(1)
        return m


def board_top(
    ports: BoardPorts,
    config: AcceleratorConfig,
    *,
    memory_bytes: int,
    frequency_mhz: float,
    baud: int = BAUD,
) -> BoardTop:
    """Return the top for a clock of at most ``frequency_mhz``.

    Raises
    ------
    ValueError
        The PLL does not reach the frequency, the clock does not suit ``baud``, or no memory has the
        size.
    """
    least = 10 / GAP_SECONDS
    if baud <= least:
        raise ValueError(
            f"baud must be above {least:.0f}, not {baud}: the bridge forgets a request after "
            f"{GAP_SECONDS} s without a byte"
        )
    settings = pll_settings(ports.oscillator[1], frequency_mhz, family=ports.family)
    clock_hz = round(settings.mhz * 1e6)
    return BoardTop(
        ports=ports,
        config=config,
        memory_bytes=ports.check_memory_bytes(memory_bytes, config),
        settings=settings,
        divisor=baud_divisor(clock_hz, baud),
        gap_cycles=round(GAP_SECONDS * clock_hz),
        family=ports.family,
    )


@dataclass(frozen=True)
class Pin:
    """A bit of a port, the pin of the package, whether amaranth-boards has it active low, and the
    attributes of its buffer.
    """

    bit: str
    site: str
    active_low: bool
    attributes: tuple[tuple[str, str], ...]


def pins(ports: BoardPorts) -> list[Pin]:
    """Return the pins of the :class:`BoardTop`, as amaranth-boards knows them."""
    module, _, name = ports.platform.partition(":")
    platform = getattr(import_module(f"amaranth_boards.{module}"), name)
    resources = {(item.name, item.number): item for item in platform.resources}
    wanted: dict[str, tuple[str, int, str | None]] = {
        "oscillator": (ports.oscillator[0], 0, None),
        "button": (ports.button, 0, None),
        "uart_rx": ("uart", 0, "rx"),
        "uart_tx": ("uart", 0, "tx"),
        **{f"led[{i}]": ("led", i, None) for i in range(ports.leds)},
        **{port: (resource, 0, part) for port, (resource, part) in ports.high.items()},
    }
    found = []
    for bit, (resource, number, part) in wanted.items():
        item = resources[resource, number]
        attributes = dict(item.attrs)
        if part is not None:
            item = next(each for each in item.ios if each.name == part)
            attributes |= item.attrs
        (pin,) = item.ios
        (site,) = pin.names
        words = tuple((key, str(value)) for key, value in attributes.items())
        found.append(Pin(bit, site, bool(pin.invert), words))
    return found
