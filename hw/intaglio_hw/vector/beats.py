"""What travels through the vector unit's pipeline, and the delays that it travels through."""

from amaranth.hdl import Module, Signal, Value, signed, unsigned
from amaranth.lib import data

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import ERROR_BITS, address_width

__all__ = [
    "ADDRESS_BITS",
    "FRACTION_BITS",
    "INDEX_BITS",
    "OFFSET_BITS",
    "WEIGHT_BITS",
    "beat_layout",
    "bits_for",
    "delay",
    "position_layout",
]

#: Bits of a scratchpad address that is being computed; the highest says that it is beyond every
#: depth.
ADDRESS_BITS = 17
#: Bits of ``row * columns`` for a position inside a source of at most 4095 x 4095; others count
#: modulo.
OFFSET_BITS = 24
#: Bits of a vertical fraction of *resize*, and of a weight: 2047 * 64, 1023 * 128, 511 * 255 fit.
FRACTION_BITS, WEIGHT_BITS = 11, 17
#: Bits of a row or column in a source.
INDEX_BITS = 12


def bits_for(count: int) -> int:
    """Return the bits of an index below ``count``, at least one."""
    return max((count - 1).bit_length(), 1)


def position_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of where the walker is: a source vector of an output of a chunk.

    Rows and columns are not clamped. The lower INDEX_BITS count; the bit above them says that the
    index is beyond every source, the sign that it is before it.
    """
    return data.StructLayout(
        {
            "row": signed(INDEX_BITS + 2),  # in the source
            "col": signed(INDEX_BITS + 2),
            "offset_low": unsigned(OFFSET_BITS // 2),  # row * src_cols, lower half
            "offset_high": unsigned(OFFSET_BITS // 2),  # upper half of a cycle ago
            "block": unsigned(ADDRESS_BITS),  # first vector of the channel block
            "residual": unsigned(ADDRESS_BITS),  # vector of the residual
            "pixel": unsigned(ADDRESS_BITS),  # row of the accumulator
            "chunk": unsigned(bits_for(config.K // config.drain_lanes)),
            "group": unsigned(bits_for(config.R // config.drain_lanes)),  # lanes of the source
            "fraction_h": unsigned(FRACTION_BITS),  # resize
            "fraction_w": unsigned(8),
            "bottom": unsigned(1),  # resize: the second row, column
            "right": unsigned(1),
            "vertical": unsigned(1),  # resize: the weight leaves out the horizontal factor
            "still": unsigned(1),  # resize: no source vector, the columns stay
            "steps": unsigned(2),  # resize: how far to go from the left to the right column
            "ofm_base": unsigned(ADDRESS_BITS),  # first vector of the chunk's output
            "ofm": unsigned(ADDRESS_BITS),  # from there to the output
            "ofm_lane": unsigned(bits_for(config.R)),  # first lane to write
            "is_residual": unsigned(1),  # the beat reads the residual of a sum
            "chunk_first": unsigned(1),
            "output_first": unsigned(1),
            "output_last": unsigned(1),
        }
    )


def beat_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of a beat whose accesses have been checked."""
    return data.StructLayout(
        {
            "valid": unsigned(1),
            "take": unsigned(1),  # first beat of a chunk: its parameters come into force
            "first": unsigned(1),  # first source vector of an output
            "write": unsigned(1),  # last one: the output is complete
            "last": unsigned(1),  # the instruction ends here; not always valid
            "error": unsigned(ERROR_BITS),  # with last
            "padded": unsigned(1),  # pad_code in place of the source vector
            "unused": unsigned(config.R),  # argmax: lanes beyond the channels
            "is_residual": unsigned(1),
            "vertical": unsigned(1),  # resize, as in the position
            "top": unsigned(1),  # resize: first half of a new right column
            "bottom": unsigned(1),  # second half
            "steps": unsigned(2),
            "group": unsigned(bits_for(config.R // config.drain_lanes)),
            "weight": unsigned(WEIGHT_BITS),
            "chunk": unsigned(bits_for(config.K // config.drain_lanes)),
            "pixel": unsigned(address_width(config.acc_depth)),
            "ofm": unsigned(address_width(config.ofm_depth)),
            "ofm_lane": unsigned(bits_for(config.R)),
        }
    )


def delay(m: Module, value: Value, stages: int, *, name: str, reset_less: bool = True) -> Value:
    """Return ``value`` of ``stages`` cycles ago. Registers that hold validity need their reset."""
    for stage in range(stages):
        register = Signal(Value.cast(value).shape(), name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
