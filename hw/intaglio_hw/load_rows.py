"""Rows of the load unit: what the side that writes has to know of each, formed in front of it.

:func:`hand_over` turns what :class:`intaglio_hw.axi.RowBursts` says of a row into a
:func:`row_layout` for the queue of rows, and that into the :func:`place_layout` of the two places
behind it, with the first step of the row.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error
from intaglio_hw.axi import ROW_BITS, RowBursts, row_info_layout
from intaglio_hw.streams import Queue, TwinBuffer

__all__ = ["REST", "STEP", "hand_over", "place_layout", "row_layout", "step_fields"]


#: What a step of the writing side does. ``at_end``: go on to the next row, if there is one;
#: ``skip``: to the next beat without a vector; otherwise to the next vector. ``is_data``: its beat
#: comes from memory. ``emits``: it has a vector, ``takes``: it goes on to a row of the same
#: instruction, ``ends``: it ends the instruction. Three groups of registers go ahead with it, if
#: they are concerned: those of rows, of beats and of vectors, ``free`` or ``waiting`` for the beat.
STEP = data.StructLayout(
    dict.fromkeys(
        (
            "is_data",
            "at_end",
            "within",  # the complement
            "skip",
            "emits",
            "takes",
            "ends",
            "row_free",
            "row_waiting",
            "beat_free",
            "beat_waiting",
            "vector_free",
            "vector_waiting",
        ),
        1,
    )
)
#: No row is held.
REST = {"at_end": 1, "row_free": 1, "beat_free": 1, "vector_free": 1}


def step_fields(*, is_data: Value, onward: Value, skip: Value, at_end: Value, last: Value) -> dict:
    """Return the fields of a step; ``onward``: to the next beat, ``last``: of the last row."""
    return {
        "is_data": is_data,
        "at_end": at_end,
        "within": ~at_end,
        "skip": skip,
        "emits": ~skip,
        "takes": at_end & ~last,
        "ends": at_end & last,
        "row_free": at_end & ~is_data,
        "row_waiting": at_end & is_data,
        "beat_free": onward & ~is_data,
        "beat_waiting": onward & is_data,
        "vector_free": ~skip & ~is_data,
        "vector_waiting": ~skip & is_data,
    }


def row_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of a row in the queue of rows: what RowBursts says of it, and its start."""
    lane_bits = (config.R - 1).bit_length()
    return data.StructLayout(
        {
            **row_info_layout(config).members,
            # Beats, if there are some, with those of padding in front, behind the third; none:
            # negative.
            "more": ROW_BITS + 2 - lane_bits,
            "failed": 1,  # has an error
            "is_data": 1,  # the first beat comes from memory, the second
            "then_data": 1,
            "skip": 1,  # the first vector also needs the second beat
            "single": 1,  # there is no other
            "lead": 3,  # whole beats of padding in front
            "shift": lane_bits,  # of the first vector, of the second
            "over": 1,
            "then_shift": lane_bits,
            "then_over": 1,
        }
    )


def place_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of a row in front of the writing side, its masks and first step formed."""
    return data.StructLayout(
        {
            **row_layout(config).members,
            "head": config.R,
            "tail": config.R,
            "lead_near": 1,
            "first": STEP,
        }
    )


def hand_over(
    m: Module,
    config: AcceleratorConfig,
    bursts: RowBursts,
    infos: Queue,
    next_row: TwinBuffer,
    ask: data.View,
    one_vector: Signal,
) -> Signal:
    """Form what the writing side has to know of a row; return whether one is on its way.

    RowBursts hands over one row in three cycles: what its ``ready`` says may be a cycle old,
    and what depends on ``head`` is formed before the row is handed over.
    """
    R = config.R
    lane_bits = (R - 1).bit_length()
    # The instruction of the row, which may have gone when the row is handed over.
    lead = Signal(8, reset_less=True)
    stride = Signal(lane_bits + 1, reset_less=True)
    single = Signal(reset_less=True)
    with m.If(bursts.row.ready):
        m.d.sync += [lead.eq(ask.lead), stride.eq(ask.vector_step), single.eq(one_vector)]
    # lead - head, in beats and bytes.
    ahead_layout = data.StructLayout({"bytes": lane_bits, "beats": 8 - lane_bits, "negative": 1})
    next_ahead = Signal(ahead_layout, reset_less=True)
    ahead = Signal(ahead_layout, reset_less=True)
    handed = Signal(bursts.info.payload.shape(), reset_less=True)
    more = Signal(ROW_BITS + 2 - lane_bits, reset_less=True)
    then = Signal(lane_bits + 1, reset_less=True)
    failed = Signal(reset_less=True)
    handing = Signal()
    about = bursts.info.payload
    first_ahead = Signal(ahead_layout)
    front = Signal(signed(4), reset_less=True)  # beats of padding in front, less 2
    some_more = Signal((len(about.more) + 3) // 4, reset_less=True)
    shift = (~next_ahead.bytes)[:lane_bits]
    m.d.comb += first_ahead.eq((lead - about.head)[:9])
    m.d.sync += [
        bursts.info.ready.eq(infos.i.ready),
        handing.eq(bursts.info.valid & bursts.info.ready),
        next_ahead.eq(first_ahead),
        front.eq(Mux(first_ahead.negative, 0, first_ahead.beats[:3]) - 2),
        ahead.eq(next_ahead),
        handed.eq(about),
        some_more.eq(Cat(about.more[i : i + 4].any() for i in range(0, len(about.more), 4))),
        more.eq(about.more + front),
        then.eq(shift + stride),
        failed.eq(about.error != Error.NONE),
    ]
    shape = infos.i.payload
    farther = Signal(lane_bits + 1)
    m.d.comb += [
        infos.i.valid.eq(handing),
        *(shape[name].eq(handed[name]) for name in ("head", "tail", "some", "error", "last")),
        shape.more.eq(more),
        shape.failed.eq(failed),
        shape.skip.eq(ahead.negative),
        shape.single.eq(single),
        shape.lead.eq(Mux(ahead.negative, 0, ahead.beats)),
        shape.is_data.eq(handed.some & (shape.lead == 0)),
        shape.then_data.eq(handed.some & Mux(shape.lead == 0, some_more.any(), shape.lead == 1)),
        shape.shift.eq(~ahead.bytes),
        shape.over.eq(then[lane_bits]),
        shape.then_shift.eq(then),
        farther.eq(shape.then_shift + stride),
        shape.then_over.eq(farther[lane_bits]),
    ]
    row, place = infos.o.payload, next_row.i.payload
    masks = ("head", "tail")
    first = step_fields(
        is_data=row.is_data,
        onward=row.skip | row.over | row.single,
        skip=row.skip,
        at_end=row.single & ~row.skip,
        last=row.last,
    )
    m.d.comb += [
        next_row.i.valid.eq(infos.o.valid),
        infos.o.ready.eq(next_row.i.ready),
        *(place[name].eq(row[name]) for name in row.shape().members if name not in masks),
        *(place.first[name].eq(value) for name, value in first.items()),
        place.lead_near.eq(row.lead <= 2),
        place.head.eq(Const((1 << R) - 1, R) << row.head),
        place.tail.eq(~(Const((1 << R) - 2, R) << (row.tail - 1)[:lane_bits])[:R]),
    ]
    return handing
