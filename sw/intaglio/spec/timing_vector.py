"""Cycles of the vector unit, exactly: a function of the configuration and the fields.

A *beat* is one vector read from the source, or one row of the accumulator, or an output of *resize*
between the same source columns as the one before it. The unit does one beat per cycle, chunk after
chunk; the parameters of the next chunk are read meanwhile, L pairs in L + V - 2 cycles, which a
chunk of fewer beats waits for; without, a chunk takes MIN_CHUNK cycles at least. The rest is
constant: SETUP + L before the first beat (SETUP_MIN at least), V + FINISH behind the last. Plain
integers; tests hold the formula against the hardware.
"""

from collections.abc import Mapping

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Function

__all__ = ["MIN_CHUNK", "SETUP", "SETUP_MIN", "vector_beats", "vector_cycles", "vector_interval"]

#: Cycles from acceptance to the first beat, besides the L cycles that read its parameters.
SETUP = 5
#: Cycles from a beat to the value that it gives, V.
VALUE = 18
#: Fewest cycles from the first beat of a chunk to that of the next.
MIN_CHUNK = 3
#: Cycles from acceptance to the first beat at least: products and checks of the instruction, and
#: MIN_CHUNK from the step that begins the first chunk.
SETUP_MIN = 6 + MIN_CHUNK
#: Cycles from that value to ``done``: requantisation, write, report.
FINISH = 15


def vector_beats(config: AcceleratorConfig, fields: Mapping[str, int]) -> tuple[int, int]:
    """Return (chunks, beats per chunk) of a ``vector`` instruction."""
    function = fields["function"]
    taps = 1
    if function in (Function.MAX, Function.SUM):
        taps = fields["kernel_h"] * fields["kernel_w"]
        if function == Function.SUM:
            taps += fields["residual"]
    elif function == Function.RESIZE:
        # Eight for the first output of a row, then one, or two where a column comes into sight.
        way = fields["frac_w"] + (fields["out_cols"] - 1) * fields["step_w"]
        beats = 7 + fields["out_cols"] + way // fields["den_w"]
        return fields["chunks"], fields["out_rows"] * beats
    elif function == Function.ARGMAX:
        taps = -(-fields["channels"] // config.R)
    chunks = 1 if function == Function.ARGMAX else fields["chunks"]
    return chunks, fields["out_rows"] * fields["out_cols"] * taps


def _last_beat(config: AcceleratorConfig, fields: Mapping[str, int]) -> int:
    """Return the cycles from acceptance to the last beat."""
    lanes = config.drain_lanes
    chunks, beats = vector_beats(config, fields)
    reloads = fields["function"] not in (Function.MAX, Function.ARGMAX) and not fields["uniform"]
    period = max(beats, lanes + VALUE - 2 if reloads else MIN_CHUNK)
    return max(SETUP + lanes, SETUP_MIN) + (chunks - 1) * period + beats - 1


def vector_cycles(config: AcceleratorConfig, fields: Mapping[str, int]) -> int:
    """Return the cycles from acceptance to ``done``, for an instruction without errors."""
    return _last_beat(config, fields) + VALUE + FINISH


def vector_interval(config: AcceleratorConfig, fields: Mapping[str, int]) -> int:
    """Return the cycles from acceptance to the earliest acceptance of the next instruction."""
    return _last_beat(config, fields) + VALUE + 1
