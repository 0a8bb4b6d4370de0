"""The record of what each component takes on each board: a CSV file to which every measurement is
appended; the newest line of a component counts.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write
from intaglio_hw.families import KINDS

__all__ = ["ALL", "COLUMNS", "Entry", "append_record", "grown", "newest", "read_record"]

COLUMNS = ("date", "board", "config", "digest", "component", *KINDS, "fmax_mhz")
#: Component of a line that sums up the whole accelerator.
ALL = "all"
#: Kinds that must not grow unnoticed, and by how much they may: a tenth.
_WATCHED = ("lut", "dsp")
_TENTH = 10


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line: ``counts`` has all of KINDS; ``fmax_mhz`` is that of the whole accelerator or of the
    component alone, None where nothing was routed.
    """

    date: str
    board: str
    config: str
    digest: str
    component: str
    counts: Mapping[str, int]
    fmax_mhz: float | None = None

    def row(self) -> list[str]:
        """Return the columns as text."""
        counts = [str(self.counts[kind]) for kind in KINDS]
        fmax = "" if self.fmax_mhz is None else f"{self.fmax_mhz:.1f}"
        return [self.date, self.board, self.config, self.digest, self.component, *counts, fmax]


def read_record(path: str | Path) -> list[Entry]:
    """Read a record, oldest line first.

    Raises
    ------
    IntaglioError
        Missing file, another header, a broken line (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise IntaglioError(f"{path}: no such record; 'intaglio bench synth' makes it")
    entries = []
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != COLUMNS:
            raise IntaglioError(f"{path}:1: the columns must be {','.join(COLUMNS)}")
        for row in reader:
            try:
                values = dict(zip(COLUMNS, row, strict=True))
                entries.append(
                    Entry(
                        **{name: values[name] for name in COLUMNS[:5]},
                        counts={kind: int(values[kind]) for kind in KINDS},
                        fmax_mhz=float(values["fmax_mhz"]) if values["fmax_mhz"] else None,
                    )
                )
            except ValueError as error:
                raise IntaglioError(f"{path}:{reader.line_num}: {error}") from error
    return entries


def append_record(path: str | Path, entries: Sequence[Entry]) -> None:
    """Append lines to the record at ``path``, which is made if it is missing."""
    path = Path(path)
    old = read_record(path) if path.is_file() else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(entry.row() for entry in [*old, *entries])
    with atomic_write(path, "w") as file:
        file.write(text.getvalue())


def newest(entries: Sequence[Entry]) -> dict[tuple[str, str, str], Entry]:
    """Return the newest line for each (board, config, component)."""
    return {(entry.board, entry.config, entry.component): entry for entry in entries}


def grown(
    entries: Sequence[Entry], *, board: str, config: str, components: Mapping[str, Mapping]
) -> list[str]:
    """Return what is missing from the record, or needs over a tenth more than it says.

    Parameters
    ----------
    components
        Name -> resources, as ``components`` of :func:`intaglio_hw.synth.synthesize`.
    """
    known = newest(entries)
    complaints = []
    for name, counts in components.items():
        entry = known.get((board, config, name))
        if entry is None:
            complaints.append(f"{name} of {config} on {board} is not in the record")
            continue
        for kind in _WATCHED:
            before, now = entry.counts[kind], counts[kind]
            if _TENTH * now > (_TENTH + 1) * before:
                complaints.append(f"{name} of {config} on {board}: {now} {kind}, was {before}")
    return complaints
