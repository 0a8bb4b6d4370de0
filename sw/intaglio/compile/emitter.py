"""What all lowerings share: the scratchpads, loads of tiles and constants, stores, refusals."""

from collections.abc import Hashable, Iterable

import numpy as np

from intaglio.compile.allocate import MemoryImage, Ring
from intaglio.compile.schedule import Place, Schedule
from intaglio.compile.tile import Span
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Buffer, Unit
from intaglio.spec.program import Placement

__all__ = ["LEAD_MAX", "SIDE_MAX", "Emitter", "parameter_pairs"]

#: Largest kernel side, stride and dilation of an instruction (8-bit fields).
SIDE_MAX = 255
#: Most vectors of padding before a row that a load can make.
LEAD_MAX = 7


def parameter_pairs(multiplier: np.ndarray, bias: np.ndarray, granularity: int) -> np.ndarray:
    """Return the 8-byte pairs (int16, int48, little endian), zero pairs up to whole vectors."""
    multiplier, bias = (np.asarray(x, np.int64) for x in (multiplier, bias))
    pairs = (bias << 16) | (multiplier & 0xFFFF)
    return np.pad(pairs, (0, -len(pairs) % granularity)).astype("<i8").view(np.uint8)


class Emitter:
    """Emits loads, stores and other instructions, and keeps track of the scratchpads.

    The rings make double buffering out of tiles that take at most half of a scratchpad, and keep
    what need not be loaded again.

    Parameters
    ----------
    config
        The machine.
    image
        Receives weights and parameters.
    values
        Name -> placement of every value.
    schedule
        Receives the instructions.
    latency, interval
        Cycles of the memory that plans are made for: from a request to its first beat, from beat to
        beat.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        image: MemoryImage,
        values: dict[str, Placement],
        schedule: Schedule,
        latency: int,
        interval: int,
    ) -> None:
        self.config = config
        self.image = image
        self.values = values
        self.latency = latency
        self.interval = interval
        self.rings = {
            Buffer.IFM: Ring("IFM", config.ifm_depth),
            Buffer.WGT: Ring("WGT", config.wgt_depth),
            Buffer.VEC: Ring("VEC", config.vec_depth),
            Buffer.PRM: Ring("PRM", config.prm_depth, config.params_per_vector),
        }
        self.ofm = Ring("OFM", config.ofm_depth)
        #: Name of the node that is being lowered.
        self.layer = ""
        self._schedule = schedule
        self._bank = 0

    def next_bank(self) -> int:
        """Return the accumulator bank for the next tile: they alternate."""
        self._bank ^= 1
        return self._bank

    def refuse(self, text: str) -> IntaglioError:
        """Return the error that says what of the current layer does not fit the machine."""
        return IntaglioError(f"layer {self.layer}, configuration {self.config.name}: {text}")

    def check_sides(self, **sides: int) -> None:
        """Refuse kernels, strides and dilations that the 8-bit fields cannot hold."""
        for name, side in sides.items():
            if side > SIDE_MAX:
                raise self.refuse(f"{name} must be at most {SIDE_MAX}, not {side}")

    def _memory(self, address: int, nbytes: int) -> Place:
        return Place("MEM", address, address + nbytes)

    def add(
        self, unit: Unit, fields: dict[str, int], reads: Iterable[Place], writes: Iterable[Place]
    ) -> None:
        """Append an instruction of the current layer."""
        self._schedule.add(unit, fields, reads=reads, writes=writes, layer=self.layer)

    # Loads.

    def _load(
        self,
        buffer: Buffer,
        place: Place,
        *,
        address: int,
        planes: int,
        plane_step: int,
        rows: int,
        row_step: int,
        vectors: int,
        vector_step: int,
        lead: int,
        row_bytes: int,
        pad_code: int = 0,
    ) -> None:
        last = address + (planes - 1) * plane_step + (rows - 1) * row_step + row_bytes
        self.add(
            Unit.LOAD,
            {
                "buffer": buffer,
                "address": address,
                "plane_step": plane_step,
                "row_step": row_step,
                "base": place.start,
                "planes": planes,
                "rows": rows,
                "vectors": vectors,
                "vector_step": vector_step,
                "lead": lead,
                "row_bytes": row_bytes,
                "pad_code": pad_code,
            },
            [self._memory(address, last - address)],
            [place],
        )

    def load_constant(
        self, buffer: Buffer, key: Hashable, address: int, nbytes: int, slot: int = 1
    ) -> Place:
        """Return where the constant lies, loading it if it is not there any more.

        ``slot``: places of the largest constant of its kind.
        """
        ring = self.rings[buffer]
        place = ring.find(key)
        if place is None:
            vectors = nbytes // self.config.R
            per_vector = self.config.params_per_vector if buffer == Buffer.PRM else 1
            ring.open_slot(slot)
            place = ring.allocate(vectors * per_vector, key)
            self._load(
                buffer,
                place,
                address=address,
                planes=1,
                plane_step=0,
                rows=1,
                row_step=0,
                vectors=vectors,
                vector_step=self.config.R,
                lead=0,
                row_bytes=nbytes,
            )
        return place

    def load_tile(
        self,
        buffer: Buffer,
        value: Placement,
        block: int,
        blocks: int,
        rows: Span,
        cols: Span,
        place: Place | None = None,
        slot: int = 1,
    ) -> Place:
        """Return where a tile of a value in blocks lies, loading it if it is not there any more.

        With ``place``, load it there in any case. ``slot``: vectors of the largest tile of its
        kind.
        """
        key = (value.address, block, blocks, rows.positions, cols.positions)
        ring = self.rings[buffer]
        found = ring.find(key) if place is None else None
        if found is None:
            vector = self.config.R
            _, height, width = value.shape
            if place is None:
                ring.open_slot(slot)
            found = place or ring.allocate(blocks * rows.size * cols.size, key)
            whole_rows = cols.size == width and rows.step == 1
            vectors = rows.size * cols.size if whole_rows else cols.size
            self._load(
                buffer,
                found,
                address=value.address
                + ((block * height + rows.start) * width + cols.start) * vector,
                planes=blocks,
                plane_step=height * width * vector,
                # Whole rows follow each other in memory: one long row instead of many.
                rows=1 if whole_rows else rows.size,
                row_step=rows.step * width * vector,
                vectors=vectors,
                vector_step=vector,
                lead=0,
                row_bytes=vectors * vector,
            )
        return found

    def load_image(
        self, value: Placement, rows: Span, cols: Span, pixels: int, pad_code: int, slot: int
    ) -> Place:
        """Return where a tile of the dense image lies, loading it if it is not there any more.

        Vector i of a row begins at pixel ``cols.start + i``, which may lie in the padding, and
        holds ``pixels`` pixels; at most ``LEAD_MAX * R`` bytes of padding. ``slot``: as for
        :meth:`load_tile`.
        """
        key = (value.name, pad_code, pixels, rows.positions, cols.positions)
        place = self.rings[Buffer.IFM].find(key)
        if place is None:
            channels, _, width = value.shape
            self.rings[Buffer.IFM].open_slot(slot)
            place = self.rings[Buffer.IFM].allocate(rows.size * cols.size, key)
            start = max(cols.start, 0)
            stop = max(min(width, cols.stop - 1 + pixels), start + 1)
            self._load(
                Buffer.IFM,
                place,
                address=value.address + (rows.start * width + start) * channels,
                planes=1,
                plane_step=0,
                rows=rows.size,
                row_step=rows.step * width * channels,
                vectors=cols.size,
                vector_step=channels,
                lead=(start - cols.start) * channels,
                row_bytes=(stop - start) * channels,
                pad_code=pad_code,
            )
        return place

    # Stores.

    def store_tile(
        self,
        value: Placement,
        place: Place,
        block: int,
        blocks: int,
        row: int,
        rows: int,
        col: int,
        cols: int,
    ) -> None:
        """Store an OFM tile; ``col`` and ``cols`` count vectors of a row in memory."""
        vector = self.config.R
        _, height, width = value.shape
        if value.class_planes:
            width = -(-width // vector)
        whole_rows = cols == width
        address = value.address + ((block * height + row) * width + col) * vector
        plane_step, row_step = height * width * vector, width * vector
        last = address + (blocks - 1) * plane_step + (rows - 1) * row_step + cols * vector
        self.add(
            Unit.STORE,
            {
                "address": address,
                "plane_step": plane_step,
                "row_step": row_step,
                "base": place.start,
                "planes": blocks,
                "rows": 1 if whole_rows else rows,
                "vectors": rows * cols if whole_rows else cols,
            },
            [place],
            [self._memory(address, last - address)],
        )
