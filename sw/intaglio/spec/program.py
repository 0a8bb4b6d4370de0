"""A compiled program: instructions, memory image, and where every value of the graph lies.

Written by :mod:`intaglio.compile`, executed by the golden machine, the RTL and the board. The file
is an ``.npz`` with the configuration and the digests of what it was made from.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import array_digest, atomic_write, bytes_digest
from intaglio.spec.isa import INSTRUCTION_BYTES

__all__ = [
    "LAYOUTS",
    "Placement",
    "Program",
    "load_program",
    "read_value",
    "save_program",
    "write_value",
]

#: "dense": byte (h * W + w) * C + c. "blocks": see :class:`Placement`. "classes": one byte for each
#: pixel, rows of ceil(W / R) * R bytes. "wide_classes": two such planes, low bytes and high bytes.
LAYOUTS = ("dense", "blocks", "classes", "wide_classes")

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a value of the graph lies in memory.

    ``address`` is the byte offset of the value, ``shape`` its (C, H, W). In the layout "blocks",
    channel c is lane ``lanes[c] % R`` of block ``lanes[c] // R``, and a block is H * W vectors of R
    bytes; lanes that belong to no channel hold bytes without meaning, which no result depends on.
    """

    name: str
    shape: tuple[int, int, int]
    exponent: int
    address: int
    layout: str
    lanes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")
        if self.layout == "blocks" and len(self.lanes) != self.shape[0]:
            raise ValueError(f"lanes must name {self.shape[0]} channels, not {len(self.lanes)}")

    @property
    def class_planes(self) -> int:
        """Value of the planes of a class map, one for each byte of a pixel; 0 for others."""
        return {"classes": 1, "wide_classes": 2}.get(self.layout, 0)

    def blocks(self, vector_bytes: int) -> int:
        """Return the channel blocks from the first to the last that holds a channel."""
        return max(self.lanes) // vector_bytes + 1

    def nbytes(self, vector_bytes: int) -> int:
        """Return the bytes from ``address`` to the end of the value."""
        channels, rows, cols = self.shape
        if self.layout == "dense":
            return channels * rows * cols
        if self.class_planes:
            return self.class_planes * rows * (-(-cols // vector_bytes) * vector_bytes)
        return self.blocks(vector_bytes) * rows * cols * vector_bytes


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program for one configuration.

    Parameters
    ----------
    config
        The accelerator it was compiled for; :meth:`check_config` refuses another one.
    graph_digest
        Digest of the graph it computes.
    instructions
        uint8, a multiple of 64 bytes; also part of ``memory``, at ``program_base``.
    program_base
        Byte offset of the program in memory.
    memory
        uint8: the memory image before the run, input excluded; its length is ``memory_bytes``.
    values
        Name -> :class:`Placement`, for the input and every node's output.
    inputs, outputs
        Names of the graph's input and outputs.
    layers
        Name of the node that each instruction belongs to ("" for ``end``).
    macs
        Node name -> multiplications of the layer (padding positions included).
    """

    config: AcceleratorConfig
    graph_digest: str
    instructions: np.ndarray
    program_base: int
    memory: np.ndarray
    values: Mapping[str, Placement]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    macs: Mapping[str, int]

    @property
    def length(self) -> int:
        """Value of the number of instructions."""
        return len(self.instructions) // INSTRUCTION_BYTES

    @property
    def memory_bytes(self) -> int:
        """Value of the size of the memory image in bytes."""
        return len(self.memory)

    def instruction(self, index: int) -> np.ndarray:
        """Return the 64 bytes of instruction ``index``."""
        return self.instructions[index * INSTRUCTION_BYTES : (index + 1) * INSTRUCTION_BYTES]

    def check_config(self, config: AcceleratorConfig) -> None:
        """Raise IntaglioError when ``config`` is another machine than the one compiled for."""
        if config.digest() != self.config.digest():
            raise IntaglioError(
                f"the program is for configuration {self.config.name} "
                f"({self.config.digest()[:12]}), not {config.name} ({config.digest()[:12]}): "
                "compile it again with 'intaglio compile'"
            )

    def image(self, x: np.ndarray) -> np.ndarray:
        """Return a copy of the memory image with the input ``x`` (C, H, W) int8 written into it."""
        memory = self.memory.copy()
        write_value(memory, self.values[self.inputs[0]], x, self.config.R)
        return memory

    def digest(self) -> str:
        """Return the SHA-256 over configuration, instructions and memory image."""
        return bytes_digest(
            (
                self.config.digest()
                + self.graph_digest
                + array_digest({"instructions": self.instructions, "memory": self.memory})
            ).encode()
        )


def _view(memory: np.ndarray, placement: Placement, vector_bytes: int) -> np.ndarray:
    """Return the bytes of ``placement`` in ``memory`` as an int8 view in the layout's own shape."""
    channels, rows, cols = placement.shape
    size = placement.nbytes(vector_bytes)
    raw = memory[placement.address : placement.address + size]
    if len(raw) != size:
        raise ValueError(
            f"value {placement.name!r} lies at [{placement.address}, {placement.address + size}), "
            f"the memory has {len(memory)} bytes"
        )
    if placement.layout == "dense":
        return raw.view(np.int8).reshape(rows, cols, channels)
    if placement.class_planes:
        return raw.reshape(placement.class_planes, rows, -1)
    return raw.view(np.int8).reshape(-1, rows, cols, vector_bytes)


def read_value(memory: np.ndarray, placement: Placement, vector_bytes: int) -> np.ndarray:
    """Return the value as (C, H, W): int8, or uint8 or uint16 for a class map."""
    view = _view(memory, placement, vector_bytes)
    channels, _, cols = placement.shape
    if placement.layout == "dense":
        return view.transpose(2, 0, 1).copy()
    if placement.class_planes:
        planes = view[:, :, :cols]
        if len(planes) == 1:
            return planes.copy()
        low, high = planes.astype(np.uint16)
        return (low | high << 8)[None]
    lanes = np.asarray(placement.lanes)
    return view[lanes // vector_bytes, :, :, lanes % vector_bytes].reshape(placement.shape).copy()


def write_value(memory: np.ndarray, placement: Placement, x: np.ndarray, vector_bytes: int) -> None:
    """Write ``x`` (C, H, W) int8 into ``memory``; raises ValueError when shape or type does not
    fit.
    """
    x = np.asarray(x)
    if x.dtype != np.int8 or x.shape != placement.shape or placement.class_planes:
        raise ValueError(
            f"value {placement.name!r} is int8 {placement.shape}, not {x.dtype} {x.shape}"
        )
    view = _view(memory, placement, vector_bytes)
    if placement.layout == "dense":
        view[:] = x.transpose(1, 2, 0)
        return
    lanes = np.asarray(placement.lanes)
    view[lanes // vector_bytes, :, :, lanes % vector_bytes] = x


def save_program(program: Program, path: str | Path) -> None:
    """Write ``program`` to ``path`` atomically; the same program gives the same bytes."""
    header = {
        "format": _FORMAT,
        "config": json.loads(program.config.to_json()),
        "graph_digest": program.graph_digest,
        "program_base": program.program_base,
        "inputs": program.inputs,
        "outputs": program.outputs,
        "layers": program.layers,
        "macs": dict(program.macs),
        "values": [dataclasses.asdict(value) for value in program.values.values()],
        "digest": program.digest(),
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "instructions": program.instructions,
        "memory": program.memory,
    }
    with (
        atomic_write(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            # A fixed date: np.savez would write the current one.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def load_program(path: str | Path) -> Program:
    """Read a program written by :func:`save_program`.

    Raises
    ------
    IntaglioError
        Missing, truncated or altered file, or one of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise IntaglioError(f"{path}: no such file; 'intaglio compile' makes a program")
    try:
        with np.load(path, allow_pickle=False) as archive:
            header: dict[str, Any] = json.loads(archive["header"].tobytes())
            instructions, memory = archive["instructions"], archive["memory"]
        if header.get("format") != _FORMAT:
            raise ValueError(f"format {header.get('format')}, expected {_FORMAT}")
        program = Program(
            config=AcceleratorConfig(**header["config"]),
            graph_digest=header["graph_digest"],
            instructions=instructions,
            program_base=header["program_base"],
            memory=memory,
            values={item["name"]: _placement(item) for item in header["values"]},
            inputs=tuple(header["inputs"]),
            outputs=tuple(header["outputs"]),
            layers=tuple(header["layers"]),
            macs=header["macs"],
        )
        found = program.digest()
    # RuntimeError: zipfile's word for a flag or a method that it does not know.
    except (
        ValueError,
        KeyError,
        TypeError,
        OSError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise IntaglioError(f"{path}: not a program file: {error}") from error
    if found != header["digest"]:
        raise IntaglioError(
            f"{path}: digest {found[:12]} instead of {header['digest'][:12]}: the file is damaged"
        )
    return program


def _placement(item: Mapping[str, Any]) -> Placement:
    fields: dict[str, Any] = dict(item)
    shape: Sequence[int] = fields.pop("shape")
    lanes: Sequence[int] = fields.pop("lanes")
    return Placement(shape=(shape[0], shape[1], shape[2]), lanes=tuple(lanes), **fields)
