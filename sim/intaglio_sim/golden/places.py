"""Which places of buffers and memory an instruction touches: the addressing of ``spec.isa``, once.

The golden machine indexes its arrays with these, the checker looks for races among them and the
cycle model counts them. All results are int64 and exact: nothing wraps, so a place may lie outside
of its buffer; whoever uses it checks that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Buffer, Function, Instruction

__all__ = [
    "Access",
    "Window",
    "accesses",
    "argmax_places",
    "array_window",
    "beats_of_rows",
    "depths",
    "output_places",
    "parameter_places",
    "residual_places",
    "resize_positions",
    "row_addresses",
    "row_beats",
    "used_bytes",
    "vector_window",
    "weight_vectors",
]

Fields = Mapping[str, int]


@dataclass(frozen=True)
class Access:
    """Places of one space that an instruction reads or writes.

    ``space``: "IFM", "WGT", "VEC", "OFM" (vectors), "PRM" (pairs), "ACC" (``bank * acc_depth +
    pixel``) or "memory" (beats of R bytes). ``places``: sorted, each once.
    """

    space: str
    write: bool
    places: np.ndarray


@dataclass(frozen=True)
class Window:
    """Positions that a window meets: ``place`` (P, Q, R, S) counts vectors from the first one of
    the first channel block; where not ``inside`` (same shape) there is padding and ``place`` is 0.
    """

    place: np.ndarray
    inside: np.ndarray


def depths(config: AcceleratorConfig) -> dict[str, int]:
    """Return the number of places of each buffer."""
    return {
        "IFM": config.ifm_depth,
        "WGT": config.wgt_depth,
        "VEC": config.vec_depth,
        "OFM": config.ofm_depth,
        "PRM": config.prm_depth,
        "ACC": 2 * config.acc_depth,
    }


def row_addresses(fields: Fields) -> np.ndarray:
    """Return the byte offset of each row of ``load`` or ``store``, planes outside: (planes *
    rows,).
    """
    planes = np.arange(fields["planes"], dtype=np.int64) * fields["plane_step"]
    rows = np.arange(fields["rows"], dtype=np.int64) * fields["row_step"]
    return (fields["address"] + planes[:, None] + rows).ravel()


def used_bytes(config: AcceleratorConfig, fields: Mapping[str, Any]) -> Any:
    """Return how many bytes of a row, from the first, the vectors of ``load`` take; fields may be
    arrays of the same shape.
    """
    end = (fields["vectors"] - 1) * fields["vector_step"] - fields["lead"] + config.R
    if isinstance(end, np.ndarray):
        return np.minimum(np.maximum(end, 0), fields["row_bytes"])
    return min(max(end, 0), fields["row_bytes"])


def beats_of_rows(config: AcceleratorConfig, addresses: np.ndarray, size: int) -> np.ndarray:
    """Return the beats that hold ``size`` bytes from each address, row after row, repeated where
    rows share one.
    """
    if size == 0:
        return np.empty(0, np.int64)
    first, last = addresses // config.R, (addresses + size - 1) // config.R
    counts = last - first + 1
    starts = np.repeat(first - np.cumsum(counts) + counts, counts)
    return starts + np.arange(counts.sum())


def row_beats(
    config: AcceleratorConfig, fields: Mapping[str, np.ndarray], size: np.ndarray
) -> np.ndarray:
    """Return the beats that hold ``size`` bytes of each row, over all rows of each instruction, for
    ``load`` or ``store`` with fields (n,): (n,).
    """
    R = config.R
    beats = -(-(fields["address"] % R + size) // R) * (size > 0)
    total = beats * fields["planes"] * fields["rows"]
    # Rows that begin at different bytes of a beat.
    for i in np.flatnonzero((fields["row_step"] % R != 0) | (fields["plane_step"] % R != 0)):
        addresses = row_addresses({name: int(column[i]) for name, column in fields.items()})
        total[i] = len(beats_of_rows(config, addresses, int(size[i])))
    return total


def _positions(count: int, stride: int, kernel: int, dilation: int, offset: int) -> np.ndarray:
    """Return the row that output p and kernel row r meet: (count, kernel)."""
    outputs = np.arange(count, dtype=np.int64)[:, None] * stride
    return outputs + np.arange(kernel, dtype=np.int64) * dilation + offset


def _window(rows: np.ndarray, cols: np.ndarray, height: int, width: int) -> Window:
    """Return the window of ``rows`` (P, R) and ``cols`` (Q, S) in a tile of ``height`` x
    ``width``.
    """
    row_inside = (rows >= 0) & (rows < height)
    col_inside = (cols >= 0) & (cols < width)
    inside = row_inside[:, None, :, None] & col_inside[None, :, None, :]  # (P, Q, R, S)
    place = (rows * width)[:, None, :, None] + cols[None, :, None, :]
    return Window(np.where(inside, place, 0), inside)


def array_window(fields: Fields) -> Window:
    """Return the positions in the IFM tile that ``array`` meets."""
    rows, cols = (
        _positions(
            fields[f"out_{name}"],
            fields[f"stride_{axis}"],
            fields[f"kernel_{axis}"],
            fields[f"dilation_{axis}"],
            fields[f"offset_{axis}"],
        )
        for name, axis in (("rows", "h"), ("cols", "w"))
    )
    return _window(rows, cols, fields["ifm_rows"], fields["ifm_cols"])


def weight_vectors(config: AcceleratorConfig, fields: Fields) -> int:
    """Return the vectors of WGT that ``array`` reads from ``wgt_base``."""
    return fields["blocks"] * fields["kernel_h"] * fields["kernel_w"] * config.K


def vector_window(fields: Fields) -> Window:
    """Return the positions in the VEC tile that ``vector`` max and sum meet."""
    rows, cols = (
        _positions(
            fields[f"out_{name}"],
            fields[f"stride_{axis}"],
            fields[f"kernel_{axis}"],
            1,
            fields[f"offset_{axis}"],
        )
        for name, axis in (("rows", "h"), ("cols", "w"))
    )
    return _window(rows, cols, fields["src_rows"], fields["src_cols"])


def resize_positions(fields: Fields, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return for each output row ("h") or column ("w") the two source positions (count, 2), clamped
    into the source, and their weights (count, 2).
    """
    name, denominator = ("rows" if axis == "h" else "cols"), fields[f"den_{axis}"]
    index = np.arange(fields[f"out_{name}"], dtype=np.int64)
    t = fields[f"frac_{axis}"] + index * fields[f"step_{axis}"]
    lower = fields[f"offset_{axis}"] + t // denominator
    positions = np.stack([lower, lower + 1], 1).clip(0, fields[f"src_{name}"] - 1)
    fraction = t % denominator
    return positions, np.stack([denominator - fraction, fraction], 1)


def argmax_places(fields: Fields) -> Window:
    """Return the positions in the VEC tile that ``vector`` argmax meets: (P, Q, 1, 1)."""
    return vector_window({**fields, "kernel_h": 1, "kernel_w": 1})


def _lane_blocks(config: AcceleratorConfig, fields: Fields) -> np.ndarray:
    """Return the channel block of each chunk: (chunks,)."""
    lanes = fields["lane"] + np.arange(fields["chunks"], dtype=np.int64) * config.drain_lanes
    return lanes // config.R


def output_places(config: AcceleratorConfig, fields: Fields) -> np.ndarray:
    """Return the vectors of OFM that ``vector`` writes: (chunks, P, Q), argmax (1, P, Q)."""
    rows = np.arange(fields["out_rows"], dtype=np.int64) * fields["ofm_row_step"]
    cols = np.arange(fields["out_cols"], dtype=np.int64)
    if fields["function"] == Function.ARGMAX:
        return (fields["ofm_base"] + rows[:, None] + cols // config.R)[None]
    planes = fields["ofm_base"] + _lane_blocks(config, fields) * fields["ofm_plane"]
    return planes[:, None, None] + rows[:, None] + cols * fields["ofm_col_step"]


def residual_places(config: AcceleratorConfig, fields: Fields) -> np.ndarray:
    """Return the vectors of VEC that hold the residual: (chunks, P, Q)."""
    pixels = np.arange(fields["out_rows"] * fields["out_cols"], dtype=np.int64)
    planes = fields["res_base"] + _lane_blocks(config, fields) * fields["res_plane"]
    return (planes[:, None] + pixels).reshape(-1, fields["out_rows"], fields["out_cols"])


def parameter_places(config: AcceleratorConfig, fields: Fields) -> np.ndarray:
    """Return the pairs of PRM that ``vector`` uses: (chunks, L); empty for max and argmax."""
    shape = (fields["chunks"], config.drain_lanes)
    if fields["function"] in (Function.MAX, Function.ARGMAX):
        return np.empty((0, config.drain_lanes), np.int64)
    if fields["uniform"]:
        return np.full(shape, fields["prm_base"], np.int64)
    return fields["prm_base"] + np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)


def _planes(base: int, step: int, count: int, inside_one: np.ndarray) -> np.ndarray:
    """Return the places of all channel blocks, from those of the first."""
    return (base + np.arange(count, dtype=np.int64)[:, None] * step + inside_one).ravel()


def accesses(
    config: AcceleratorConfig, instruction: Instruction, fields: Fields
) -> tuple[Access, ...]:
    """Return all accesses of one instruction, reads first."""
    found: list[tuple[str, bool, np.ndarray]] = []
    if instruction.name == "load":
        addresses = row_addresses(fields)
        used = used_bytes(config, fields)
        found.append(("memory", False, beats_of_rows(config, addresses, used)))
        count = len(addresses) * fields["vectors"]
        if fields["buffer"] == Buffer.PRM:
            count *= config.params_per_vector
        places = fields["base"] + np.arange(count, dtype=np.int64)
        found.append((Buffer(fields["buffer"]).name, True, places))
    elif instruction.name == "array":
        window = array_window(fields)
        places = np.unique(window.place[window.inside])
        found.append(
            (
                "IFM",
                False,
                _planes(fields["ifm_base"], fields["ifm_plane"], fields["blocks"], places),
            )
        )
        weights = np.arange(weight_vectors(config, fields), dtype=np.int64)
        found.append(("WGT", False, fields["wgt_base"] + weights))
        pixels = np.arange(fields["out_rows"] * fields["out_cols"], dtype=np.int64)
        pixels += fields["acc_bank"] * config.acc_depth
        if fields["accumulate"]:
            found.append(("ACC", False, pixels))
        found.append(("ACC", True, pixels))
    elif instruction.name == "vector":
        found += _vector_accesses(config, fields)
    elif instruction.name == "store":
        addresses = row_addresses(fields)
        count = len(addresses) * fields["vectors"]
        found.append(("OFM", False, fields["base"] + np.arange(count, dtype=np.int64)))
        size = fields["vectors"] * config.R
        found.append(("memory", True, beats_of_rows(config, addresses, size)))
    return tuple(Access(space, write, np.unique(places)) for space, write, places in found)


def _vector_accesses(
    config: AcceleratorConfig, fields: Fields
) -> list[tuple[str, bool, np.ndarray]]:
    function = fields["function"]
    found: list[tuple[str, bool, np.ndarray]] = []
    if function == Function.DRAIN:
        pixels = np.arange(fields["out_rows"] * fields["out_cols"], dtype=np.int64)
        found.append(("ACC", False, fields["acc_bank"] * config.acc_depth + pixels))
    else:
        if function == Function.RESIZE:
            rows, _ = resize_positions(fields, "h")
            cols, _ = resize_positions(fields, "w")
            inside = np.unique(rows)[:, None] * fields["src_cols"] + np.unique(cols)
        else:
            window = argmax_places(fields) if function == Function.ARGMAX else vector_window(fields)
            inside = np.unique(window.place[window.inside])
        if function == Function.ARGMAX:
            blocks = np.arange(-(-fields["channels"] // config.R), dtype=np.int64)
        else:
            blocks = np.unique(_lane_blocks(config, fields))
        places = fields["src_base"] + blocks[:, None] * fields["src_plane"] + inside.ravel()
        found.append(("VEC", False, places))
    if fields["residual"] and function in (Function.DRAIN, Function.SUM):
        found.append(("VEC", False, residual_places(config, fields)))
    parameters = parameter_places(config, fields)
    if parameters.size:
        found.append(("PRM", False, parameters))
    found.append(("OFM", True, output_places(config, fields)))
    return found
