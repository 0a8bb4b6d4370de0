"""The command ``intaglio``.

Each command has a module of its own, imports what is heavy only when it runs, and ends in one line
on standard output, or in one JSON object with ``--json``. Progress is on standard error. Whatever a
user can do wrong is one line and exit status 1.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

import intaglio
from intaglio.cli.common import describe_error
from intaglio.spec.errors import IntaglioError

__all__ = ["COMMANDS", "main"]

#: The commands, in the order of the chain; each is the function of that name in the module.
COMMANDS = (
    "train",
    "ablate",
    "compare",
    "eval",
    "freeze",
    "compile",
    "verilog",
    "run",
    "verify",
    "synth",
    "report",
    "bench",
    "fuzz",
    "docs",
)


class _Commands(click.Group):
    """The commands by name, in the order of the chain."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"intaglio.cli.{name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command


@click.group(
    cls=_Commands,
    name="intaglio",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(intaglio.__version__, prog_name="intaglio")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
def _intaglio(traceback: bool) -> None:
    """Integer segmentation networks, from training to gates, bit for bit.

    \b
    train --> freeze --> compile --> run      the same bytes on every executor
                         verilog --> synth
    verify compares them all, report shows everything on one page.
    """


def _show_warning(message: Warning | str, *_where: Any, **_more: Any) -> None:
    print(f"intaglio: warning: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done. 1: an error, told in one line on standard error; also when ``verify`` or ``fuzz`` finds
    a difference. 2: a wrong option. 130: interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = _intaglio.main(words, prog_name="intaglio", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        text: str = error.format_message()
    except (KeyboardInterrupt, click.Abort):
        print("intaglio: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        if "--traceback" in words and not isinstance(error, IntaglioError):
            raise
        text = describe_error(error)
    print(f"intaglio: error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
