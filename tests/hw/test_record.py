"""The record of resources: its file, and that the components have not grown past it."""

from pathlib import Path

import pytest

from intaglio.spec.errors import IntaglioError
from intaglio_hw.boards import BOARDS, load_board
from intaglio_hw.families import KINDS
from intaglio_hw.record import ALL, COLUMNS, Entry, append_record, grown, newest, read_record
from intaglio_hw.synth import synthesize

RECORD = Path(__file__).resolve().parents[2] / "docs" / "resources.csv"
RENEW = "renew docs/resources.csv with 'scripts/bench synth'"
COUNTS = {"lut": 100, "carry": 20, "lutram": 0, "ff": 50, "dsp": 10, "bram": 0, "spram": 0}
#: The parts that are looked at by default, and the board.
QUICK_BOARD, QUICK_PARTS = (
    "ulx3s-25f",
    ("arbiter", "array", "csr", "load", "sequencer", "store", "vector"),
)


def entry(**changes):
    values = {
        "date": "2026-01-01",
        "board": "b",
        "config": "c",
        "digest": "d",
        "component": "array",
    }
    return Entry(**{**values, "counts": COUNTS, **changes})


def test_lines_are_appended(tmp_path):
    path = tmp_path / "record.csv"
    first, second = entry(), entry(date="2026-01-02", counts={**COUNTS, "lut": 7}, fmax_mhz=99.5)
    append_record(path, [first])
    append_record(path, [second])
    assert read_record(path) == [first, second]
    assert newest(read_record(path)) == {("b", "c", "array"): second}


def test_broken_records_are_refused(tmp_path):
    path = tmp_path / "record.csv"
    with pytest.raises(IntaglioError, match="record.csv: no such record"):
        read_record(path)
    path.write_text("a,b\n")
    with pytest.raises(IntaglioError, match="record.csv:1: the columns must be date,board"):
        read_record(path)
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(["x"] * len(COLUMNS)) + "\n")
    with pytest.raises(IntaglioError, match="record.csv:2: .*'x'"):
        read_record(path)


def test_growth_is_seen_from_a_tenth_on():
    def complaints(**changes):
        return grown([entry()], board="b", config="c", components={"array": {**COUNTS, **changes}})

    assert complaints() == complaints(lut=110, dsp=11) == complaints(lut=1, ff=999) == []
    assert complaints(lut=111) == ["array of c on b: 111 lut, was 100"]
    assert complaints(dsp=12) == ["array of c on b: 12 dsp, was 10"]
    assert grown([], board="b", config="c", components={"csr": COUNTS}) == [
        "csr of c on b is not in the record"
    ]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_record_is_of_the_boards_configuration(board):
    known = newest(read_record(RECORD))
    whole = known.get((board.name, board.config.name, ALL))
    if whole is None:
        pytest.skip(f"never measured: {RENEW} --board {board.name}")
    assert whole.digest == board.config.digest()[:12], RENEW
    parts = [
        each
        for (name, config, component), each in known.items()
        if (name, config) == (board.name, board.config.name) and component != ALL
    ]
    for kind in KINDS:
        assert whole.counts[kind] == sum(part.counts[kind] for part in parts)


@pytest.mark.synth
@pytest.mark.parametrize("part", QUICK_PARTS)
def test_parts_have_not_grown(part):
    check(load_board(QUICK_BOARD), part)


@pytest.mark.synth
@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_nothing_has_grown(board):
    check(board, None)


def check(board, part):
    if (board.name, board.config.name, ALL) not in newest(read_record(RECORD)):
        pytest.skip(f"never measured: {RENEW} --board {board.name}")
    result = synthesize(board.config, family=board.family, device=board.device, part=part)
    complaints = grown(
        read_record(RECORD),
        board=board.name,
        config=board.config.name,
        components=result["components"],
    )
    assert not complaints, f"{'; '.join(complaints)}: {RENEW}"
