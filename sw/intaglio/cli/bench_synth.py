"""``intaglio bench synth``: renew the record of what each component takes on each board."""

import datetime
from pathlib import Path

import click

from intaglio.cli.common import Megahertz, Outcome, progress, result_command, table
from intaglio.spec.errors import IntaglioError

__all__ = ["bench_synth_command"]

#: The record in the repository.
RECORD = Path("docs") / "resources.csv"


@result_command("synth")
@click.option(
    "--board",
    "boards",
    multiple=True,
    metavar="NAME",
    help="May be given several times; every board by default.",
)
@click.option(
    "--seeds",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Placements to try where the chip can be routed and its router is installed.",
)
@click.option(
    "--parts",
    is_flag=True,
    help="With --seeds: place and route each component alone as well, for its own clock.",
)
@click.option("--frequency", type=Megahertz(), help="Aim in MHz; each board's by default.")
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    default=RECORD,
    show_default=True,
    help="The CSV file to append to.",
)
def bench_synth_command(
    boards: tuple[str, ...], seeds: int, parts: bool, frequency: float | None, record: Path
) -> Outcome:
    """Synthesise the boards' configurations, append what each component takes to the record."""
    from intaglio.cli.synth import measure_board
    from intaglio_hw.boards import BOARDS, load_board
    from intaglio_hw.families import FAMILY_TOOLS
    from intaglio_hw.record import ALL, COLUMNS, Entry, append_record
    from intaglio_hw.synth import parts_of
    from intaglio_hw.tools import require_router

    if not record.parent.is_dir():
        raise IntaglioError(f"{record}: no folder {record.parent}; --record names another file")
    date = datetime.date.today().isoformat()
    rows = [list(COLUMNS)]
    results = []
    for name in boards or BOARDS:
        board = load_board(name)
        router = FAMILY_TOOLS[board.family].router
        wanted = seeds if router is not None else 0
        if wanted and router is not None:
            try:
                require_router(router)
            except IntaglioError as error:
                progress(f"{name} is not routed: {error}")
                wanted = 0
        data = measure_board(name, board.config, seeds=wanted, frequency=frequency)
        if data["error"]:
            progress(f"{name}: {data['error']}")
        clocks = {ALL: data["fmax_mhz"]}
        if parts and wanted:
            for component in sorted(data["components"].keys() & parts_of(board.config).keys()):
                alone = measure_board(
                    name, board.config, part=component, seeds=wanted, frequency=frequency
                )
                clocks[component] = alone["fmax_mhz"]
        counted = {**data["components"], ALL: data["resources"]}
        entries = [
            Entry(
                date=date,
                board=name,
                config=data["config"],
                digest=data["config_digest"][:12],
                component=component,
                counts=counts,
                fmax_mhz=clocks.get(component),
            )
            for component, counts in sorted(counted.items())
        ]
        # Board by board: what is measured is kept when a later one fails.
        append_record(record, entries)
        rows += [entry.row() for entry in entries]
        results.append(data)
    return Outcome(
        data={"record": str(record), "boards": results},
        lines=table(rows, right=range(5, len(COLUMNS))),
        summary=f"{record}: {len(rows) - 1} lines more",
    )
