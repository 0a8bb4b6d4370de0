"""``intaglio docs``: pages made from the tables of instructions and registers."""

from pathlib import Path

import click

from intaglio.cli.common import Outcome, result_command

__all__ = ["docs_command"]


@result_command("docs")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("docs/guide"),
    show_default=True,
    help="Folder of the pages.",
)
@click.option("--check", is_flag=True, help="Write nothing; status 1 when a page is out of date.")
def docs_command(out: Path, check: bool) -> Outcome:
    """Write the pages on instructions and registers from their tables."""
    from intaglio.report.tables import PAGES
    from intaglio.spec.files import atomic_write

    stale = []
    for name, make in PAGES.items():
        path, text = out / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path))
        if not check:
            with atomic_write(path, "w") as file:
                file.write(text)
    verb = "out of date" if check else "written"
    return Outcome(
        data={"pages": [str(out / name) for name in PAGES], "changed": stale},
        summary=f"{len(PAGES)} pages, {verb}: {', '.join(stale) if stale else 'none'}",
        status=1 if check and stale else 0,
    )
