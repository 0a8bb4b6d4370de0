"""The accelerator's configuration: one frozen object for compiler, golden machine, cycle model and
RTL.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import bytes_digest

__all__ = ["CONFIGS", "AcceleratorConfig", "load_config"]


#: Vectors of all scratchpads of a sequential machine together: of the largest memory for them, 256
#: are the engine's.
_SEQUENTIAL_VECTORS = (1 << 14) - 256
#: Pixels in its accumulator banks.
_SEQUENTIAL_PIXELS = 256


def _is_power_of_two(x: int) -> bool:
    return x > 0 and x & (x - 1) == 0


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Sizes of one accelerator.

    Parameters
    ----------
    name
        Identifier, used in file names.
    R
        Reduction lanes: input channels that enter the array per cycle. 8, 16 or 32. A *vector* is
        ``R`` bytes; it is also the width of the memory bus, of a row of each scratchpad and of a
        channel block in memory.
    K
        Output lanes of the array. A power of two from 1 to 64.
    drain_lanes
        Lanes of the vector unit and its requantiser (``L``). A power of two that divides ``R`` and
        ``K``.
    ifm_depth, wgt_depth, vec_depth, ofm_depth
        Vectors in the scratchpads for the array's input, weights, the vector unit's input, and
        outputs.
    prm_depth
        Parameter pairs (multiplier int16, bias int48; 8 bytes each) in the parameter scratchpad.
    acc_depth
        Pixels in each of the two accumulator banks; a row is ``K`` x int32.
    queue_depth
        Instructions that wait in front of each unit.
    burst_beats
        Longest burst on the memory bus, in beats of ``R`` bytes.
    multiplier
        ``"dsp"`` or ``"logic"``: what the array's multipliers are made of.
    organization
        ``"pipelined"``: units that run side by side; ``"sequential"``: one engine that runs one
        instruction after the other, for the smallest chips. That has R = 8, K = 1 and one drain
        lane; it does the same more slowly.

    Depths are powers of two from 16 to 65536; ``prm_depth`` is at least ``K``.

    Raises
    ------
    ValueError
        Naming the field, its value and the bound.
    """

    name: str
    R: int = 8
    K: int = 8
    drain_lanes: int = 4
    ifm_depth: int = 4096
    wgt_depth: int = 4096
    vec_depth: int = 2048
    ofm_depth: int = 1024
    prm_depth: int = 256
    acc_depth: int = 256
    queue_depth: int = 8
    burst_beats: int = 64
    multiplier: str = "dsp"
    organization: str = "pipelined"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool)):
                raise TypeError(f"{field.name} must be an integer, not {value!r}")
        if not isinstance(self.name, str) or not self.name.replace("-", "_").isidentifier():
            raise ValueError(f"name must be letters, digits and dashes, not {self.name!r}")
        if self.R not in (8, 16, 32):
            raise ValueError(f"R must be 8, 16 or 32, not {self.R}")
        if not _is_power_of_two(self.K) or self.K > 64:
            raise ValueError(f"K must be a power of two from 1 to 64, not {self.K}")
        if not _is_power_of_two(self.drain_lanes) or self.drain_lanes > min(self.R, self.K):
            raise ValueError(
                f"drain_lanes must be a power of two of at most min(R, K) = {min(self.R, self.K)}, "
                f"not {self.drain_lanes}"
            )
        for name in ("ifm_depth", "wgt_depth", "vec_depth", "ofm_depth", "prm_depth", "acc_depth"):
            depth = getattr(self, name)
            if not _is_power_of_two(depth) or not 16 <= depth <= 65536:
                raise ValueError(f"{name} must be a power of two from 16 to 65536, not {depth}")
        if self.prm_depth < self.K:
            raise ValueError(f"prm_depth must be at least K = {self.K}, not {self.prm_depth}")
        if self.wgt_depth < 2 * self.K:
            raise ValueError(
                f"wgt_depth must be at least 2 * K = {2 * self.K}, not {self.wgt_depth}"
            )
        if not _is_power_of_two(self.queue_depth) or not 2 <= self.queue_depth <= 64:
            raise ValueError(
                f"queue_depth must be a power of two from 2 to 64, not {self.queue_depth}"
            )
        if not _is_power_of_two(self.burst_beats) or not 1 <= self.burst_beats <= 256:
            raise ValueError(
                f"burst_beats must be a power of two from 1 to 256, not {self.burst_beats}"
            )
        if self.burst_beats * self.R > 4096:
            raise ValueError(
                f"burst_beats must be at most 4096 / R = {4096 // self.R}, not {self.burst_beats}"
            )
        if self.multiplier not in ("dsp", "logic"):
            raise ValueError(f"multiplier must be 'dsp' or 'logic', not {self.multiplier!r}")
        if self.organization not in ("pipelined", "sequential"):
            raise ValueError(
                f"organization must be 'pipelined' or 'sequential', not {self.organization!r}"
            )
        if self.organization == "sequential":
            self._check_sequential()

    def _check_sequential(self) -> None:
        for name, value in (("R", 8), ("K", 1)):
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} must be {value} in a sequential machine, not {getattr(self, name)}"
                )
        vectors = sum(
            getattr(self, f"{name}_depth") for name in ("ifm", "wgt", "vec", "ofm", "prm")
        )
        if vectors > _SEQUENTIAL_VECTORS:
            raise ValueError(
                f"ifm_depth to prm_depth must be at most {_SEQUENTIAL_VECTORS} together in a "
                f"sequential machine, not {vectors}"
            )
        if self.acc_depth > _SEQUENTIAL_PIXELS:
            raise ValueError(
                f"acc_depth must be at most {_SEQUENTIAL_PIXELS} in a sequential machine, not "
                f"{self.acc_depth}"
            )

    @property
    def bus_bytes(self) -> int:
        """Value of the memory bus width in bytes: one beat is one vector."""
        return self.R

    @property
    def macs_per_cycle(self) -> int:
        """Value of ``R * K``."""
        return self.R * self.K

    @property
    def chunks_per_vector(self) -> int:
        """Value of the chunks of ``drain_lanes`` lanes in a vector."""
        return self.R // self.drain_lanes

    @property
    def params_per_vector(self) -> int:
        """Value of the 8-byte parameter pairs in one beat."""
        return self.R // 8

    def to_json(self) -> str:
        """Return the configuration as JSON text; :func:`load_config` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def digest(self) -> str:
        """Return the SHA-256 of everything but the name: equal machines have equal digests."""
        fields = dataclasses.asdict(self)
        del fields["name"]
        if self.organization == "pipelined":
            del fields["organization"]  # older than this field
        return bytes_digest(json.dumps(fields, sort_keys=True).encode())


def _configs(*configs: AcceleratorConfig) -> dict[str, AcceleratorConfig]:
    return {config.name: config for config in configs}


#: The named configurations.
CONFIGS = _configs(
    AcceleratorConfig(name="mini-8x8"),
    # Buffers so small that every network is tiled in every dimension: for tests of the tiling.
    AcceleratorConfig(
        name="tiny-8x8",
        drain_lanes=2,
        ifm_depth=512,
        wgt_depth=512,
        vec_depth=512,
        ofm_depth=128,
        prm_depth=64,
        acc_depth=64,
        queue_depth=4,
        burst_beats=16,
    ),
    # Different numbers of lanes on both sides of the array.
    AcceleratorConfig(
        name="narrow-8x4",
        K=4,
        drain_lanes=2,
        ifm_depth=1024,
        wgt_depth=1024,
        vec_depth=512,
        ofm_depth=256,
        prm_depth=64,
        acc_depth=64,
    ),
    AcceleratorConfig(
        name="wide-16x8",
        R=16,
        K=8,
        drain_lanes=8,
        ifm_depth=4096,
        wgt_depth=4096,
        vec_depth=2048,
        ofm_depth=1024,
        prm_depth=512,
        acc_depth=512,
    ),
    # As many multipliers behind half the bus: fewer wires, so a faster clock, where the memory
    # could not fill a wider bus anyway.
    AcceleratorConfig(
        name="wide-8x16",
        R=8,
        K=16,
        drain_lanes=4,
        ifm_depth=4096,
        wgt_depth=4096,
        vec_depth=2048,
        ofm_depth=1024,
        prm_depth=512,
        acc_depth=512,
    ),
    # For chips of about twenty thousand LUTs with fewer flip-flops: most of the block RAM has the
    # queues of instructions.
    AcceleratorConfig(
        name="small-8x4",
        K=4,
        drain_lanes=1,
        ifm_depth=512,
        wgt_depth=512,
        vec_depth=512,
        ofm_depth=512,
        prm_depth=256,
        acc_depth=256,
    ),
    # mini-8x8 with a quarter of its buffers: for a chip whose block RAM is the memory as well.
    AcceleratorConfig(
        name="compact-8x8",
        ifm_depth=1024,
        wgt_depth=1024,
        vec_depth=512,
        ofm_depth=512,
        prm_depth=128,
    ),
    # As many multiplications as small-8x4 for chips with few multiplier blocks.
    AcceleratorConfig(
        name="logic-8x4",
        K=4,
        drain_lanes=2,
        ifm_depth=2048,
        wgt_depth=2048,
        vec_depth=1024,
        ofm_depth=512,
        prm_depth=256,
        acc_depth=256,
        multiplier="logic",
    ),
    # The least that the instruction set can be run on: one lane of eight products, and buffers of
    # one block RAM (256 x 16 bits) deep.
    AcceleratorConfig(
        name="least-8x1",
        K=1,
        drain_lanes=1,
        ifm_depth=256,
        wgt_depth=256,
        vec_depth=256,
        ofm_depth=256,
        prm_depth=256,
        acc_depth=256,
        queue_depth=2,
        burst_beats=16,
    ),
    # For the iCE40 UP5K: the scratchpads are its single-port RAM.
    AcceleratorConfig(
        name="sequential-8x1",
        K=1,
        drain_lanes=1,
        ifm_depth=4096,
        wgt_depth=4096,
        vec_depth=4096,
        ofm_depth=2048,
        prm_depth=1024,
        acc_depth=256,
        queue_depth=2,
        burst_beats=16,
        organization="sequential",
    ),
    # The same beside a memory of single-port RAM: the scratchpads are what block RAM is left.
    AcceleratorConfig(
        name="tight-8x1",
        K=1,
        drain_lanes=1,
        ifm_depth=256,
        wgt_depth=128,
        vec_depth=128,
        ofm_depth=64,
        prm_depth=64,
        acc_depth=128,
        queue_depth=2,
        burst_beats=16,
        organization="sequential",
    ),
    # 256 multipliers, for larger parts than the ECP5-85F.
    AcceleratorConfig(
        name="wide-16x16",
        R=16,
        K=16,
        drain_lanes=16,
        ifm_depth=8192,
        wgt_depth=8192,
        vec_depth=4096,
        ofm_depth=2048,
        prm_depth=1024,
        acc_depth=1024,
    ),
)


def load_config(name_or_path: str | Path) -> AcceleratorConfig:
    """Return the named configuration, or read one from a JSON file written by ``to_json``.

    Raises
    ------
    IntaglioError
        Unknown name, missing or broken file, unknown or invalid field.
    """
    if str(name_or_path) in CONFIGS:
        return CONFIGS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise IntaglioError(
            f"configuration {str(name_or_path)!r} is neither a file nor one of {', '.join(CONFIGS)}"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        known = {field.name for field in dataclasses.fields(AcceleratorConfig)}
        for key in fields:
            if key not in known:
                raise ValueError(f"unknown field {key!r}")
        return AcceleratorConfig(**fields)
    except (ValueError, TypeError) as error:
        raise IntaglioError(f"{path}: {error}") from error
