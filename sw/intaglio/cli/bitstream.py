"""``intaglio synth --bitstream``: the bitstream of a board, ready to load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from intaglio.cli.common import Megahertz, Outcome, progress

__all__ = ["bitstream_options", "bitstream_outcome"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
#: What ``--bitstream`` without a file stands for: the board's name, and the suffix of its files.
_DEFAULT = "BOARD.bit"


def bitstream_options(function: _Function) -> _Function:
    """Add ``--bitstream``, ``--clock``, ``--memory`` and ``--baud``."""
    for option in (
        click.option(
            "--baud",
            type=click.IntRange(1),
            default=1_000_000,
            show_default=True,
            help="Of the bitstream's serial line.",
        ),
        click.option(
            "--memory",
            type=click.IntRange(4),
            metavar="KIB",
            help="Memory behind the accelerator of the bitstream, a multiple of 4 KiB; what its "
            "configuration leaves by default.",
        ),
        click.option(
            "--clock",
            type=Megahertz(),
            metavar="MHZ",
            help="Of the bitstream's accelerator; 50 by default on the ULX3S, 30 on the "
            "iCEBreaker.",
        ),
        click.option(
            "--bitstream",
            is_flag=False,
            flag_value=_DEFAULT,
            metavar="[FILE]",
            help=f"Build the board's bitstream instead, {_DEFAULT} (.bin for the "
            "iCEBreaker) unless FILE is given: the accelerator with memory and serial line, for "
            "'intaglio run --on board'.",
        ),
    ):
        function = option(function)
    return function


def bitstream_outcome(
    board: Any,
    config: Any,
    *,
    bitstream: str,
    clock: float | None,
    memory: int | None,
    baud: int,
    seeds: int,
) -> Outcome:
    """Build the bitstream of ``board`` with the accelerator ``config``, None for its own.

    ``bitstream``, ``clock``, ``memory`` and ``baud`` are those of :func:`bitstream_options`;
    ``seeds`` is the number of placements to try, 0 for the default.
    """
    from intaglio_hw.boards.bitstream import bitstream_settings, build_bitstream

    suffix = bitstream_settings(board).suffix
    path = Path(f"{board.name}{suffix}" if bitstream == _DEFAULT else bitstream)
    data = build_bitstream(
        board,
        path,
        config=config,
        memory_bytes=None if memory is None else 1024 * memory,
        frequency_mhz=clock,
        baud=baud,
        progress=progress,
        **({"seeds": seeds} if seeds else {}),
    )
    return Outcome(
        data=data,
        lines=[f"load it with: {data['loader']}"],
        summary=f"{path}: {data['config']} at {data['frequency_mhz']:g} MHz (reaches "
        f"{data['fmax_mhz']:.1f}), {data['memory_bytes'] // 1024} KiB of memory, "
        f"{data['baud']} baud, {data['bytes']:,} bytes",
    )
