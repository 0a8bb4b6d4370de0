"""Boards: the chip, and the configuration that suits it."""

from dataclasses import dataclass

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError

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
        What yosys and nextpnr call the chip.
    config
        Configuration that is built for it by default.
    """

    name: str
    description: str
    family: str
    device: str
    package: str
    speed: int
    config: AcceleratorConfig


_BOARDS = (
    Board(
        name="ulx3s-85f",
        description="Radiona ULX3S with a Lattice ECP5 LFE5U-85F",
        family="ecp5",
        device="85k",
        package="CABGA381",
        speed=6,
        config=CONFIGS["mini-8x8"],
    ),
)
#: The boards by name.
BOARDS = {board.name: board for board in _BOARDS}


def load_board(name: str) -> Board:
    """Return the board ``name``; IntaglioError with the known names otherwise."""
    if name not in BOARDS:
        raise IntaglioError(f"unknown board {name!r}; known: {', '.join(BOARDS)}")
    return BOARDS[name]
