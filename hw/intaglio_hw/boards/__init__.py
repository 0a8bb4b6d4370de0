"""Boards: the chip, the pins, and the configuration that fills it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio_hw.families import FAMILY_TOOLS

__all__ = ["BOARDS", "Board", "load_board"]


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board, as far as synthesis, placement and routing are concerned.

    Parameters
    ----------
    name
        Identifier on the command line.
    description
        The board and its chip, for people.
    family, device, package, speed
        What yosys and nextpnr call the chip (:mod:`intaglio_hw.families`). ``package`` is the
        series of the die for Gowin; ``speed`` is None where the name of the device has it.
    config
        Configuration that is built for it by default.
    memory_mb_s
        Peak rate of the memory on the board, in 10**6 bytes per second.
    clock
        Pin and MHz of the oscillator, or the class of amaranth-boards that knows them, as
        ``"module:class"``.
    aim_mhz
        Clock that placement and routing aim at by default; it decides where they end, not whether
        they fail.
    pins
        Pin of each other port of the harness, for routers that do not choose pins: free ones of the
        board's connectors.
    """

    name: str
    description: str
    family: str
    device: str
    package: str = ""
    speed: int | None = None
    config: AcceleratorConfig
    memory_mb_s: float
    clock: str | tuple[str, float] = ""
    aim_mhz: float = 100.0
    pins: Mapping[str, str] = field(default_factory=dict)

    def oscillator(self) -> tuple[str, float]:
        """Return the pin and the MHz of the oscillator.

        Raises
        ------
        ModuleNotFoundError
            amaranth-boards is needed and not installed.
        """
        if not isinstance(self.clock, str):
            return self.clock
        module, _, name = self.clock.partition(":")
        platform = getattr(import_module(f"amaranth_boards.{module}"), name)()
        resource = platform.lookup(platform.default_clk)
        return resource.ios[0].names[0], resource.clock.frequency / 1e6

    def harness_pins(self) -> dict[str, str]:
        """Return the pin of each port of the harness that must have one."""
        if FAMILY_TOOLS[self.family].oscillator:
            return dict(self.pins)
        return {"clk": self.oscillator()[0], **self.pins}


_BOARDS = (
    Board(
        name="ulx3s-85f",
        description="Radiona ULX3S with a Lattice ECP5 LFE5U-85F",
        family="ecp5",
        device="85k",
        package="CABGA381",
        speed=6,
        config=CONFIGS["wide-8x16"],
        memory_mb_s=286,  # SDRAM, 16 bits at 143 MHz
        clock="ulx3s:ULX3S_85F_Platform",
    ),
    Board(
        name="ulx3s-25f",
        description="Radiona ULX3S with a Lattice ECP5 LFE5U-25F",
        family="ecp5",
        device="25k",
        package="CABGA381",
        speed=6,
        config=CONFIGS["logic-8x4"],
        memory_mb_s=286,
        clock="ulx3s:ULX3S_25F_Platform",
    ),
    Board(
        name="icebreaker",
        description="1BitSquared iCEBreaker with a Lattice iCE40 UP5K",
        family="ice40",
        device="up5k",
        package="sg48",
        config=CONFIGS["sequential-8x1"],
        memory_mb_s=24,  # quad SPI flash at 48 MHz; reading only
        clock="icebreaker:ICEBreakerPlatform",
    ),
    Board(
        name="tang-primer-20k",
        description="Sipeed Tang Primer 20K with a Gowin GW2A-18",
        family="gowin",
        device="GW2A-LV18PG256C8/I7",
        package="GW2A-18C",
        config=CONFIGS["small-8x4"],
        memory_mb_s=1600,  # DDR3, 16 bits at 800 MT/s
        clock="tang_primer_20k:TangPrimer20kPlatform",
        aim_mhz=110.0,  # a tenth above the 100 MHz that are wanted
        pins={"rst": "T10", "serial_in": "T13", "serial_out": "M11", "shift": "T6"},
    ),
    Board(
        name="crosslink-nx-evn",
        description="Lattice CrossLink-NX evaluation board with a LIFCL-40",
        family="nexus",
        device="LIFCL-40-9BG400CES",
        config=CONFIGS["mini-8x8"],
        memory_mb_s=24,  # quad SPI flash only
        clock=("L13", 12.0),
        pins={"rst": "G19", "serial_in": "F16", "serial_out": "F18", "shift": "G14"},
    ),
    Board(
        name="arty-a7-100t",
        description="Digilent Arty A7 with a Xilinx Artix-7 XC7A100T",
        family="xc7",
        device="xc7a100t",
        config=CONFIGS["wide-16x8"],
        memory_mb_s=1333,  # DDR3L, 16 bits at 667 MT/s
        clock="arty_a7:ArtyA7_100Platform",
    ),
    Board(
        name="ultra96-v2",
        description="Avnet Ultra96-V2 with a Xilinx Zynq UltraScale+ XCZU3EG",
        family="xcup",
        device="xczu3eg",
        config=CONFIGS["wide-16x16"],
        memory_mb_s=4266,  # LPDDR4, 32 bits at 1066 MT/s
        clock=("", 100.0),  # from the processors
    ),
)
#: The boards by name.
BOARDS = {board.name: board for board in _BOARDS}


def load_board(name: str) -> Board:
    """Return the board ``name``; IntaglioError with the known names otherwise."""
    if name not in BOARDS:
        raise IntaglioError(f"unknown board {name!r}; known: {', '.join(BOARDS)}")
    return BOARDS[name]
