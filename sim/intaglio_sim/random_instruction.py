"""Random instructions that mostly do what they should: small tiles, small buffers, few errors."""

import random
from collections.abc import Mapping

import numpy as np

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Function
from intaglio_sim.golden.machine import GoldenMachine

__all__ = [
    "MEMORY_BYTES",
    "fields_of",
    "filled_machine",
    "instruction_work",
    "random_array",
    "random_load",
    "random_store",
    "random_vector",
    "shaken",
]

#: Bytes of memory that the instructions here reach.
MEMORY_BYTES = 8192


def filled_machine(config: AcceleratorConfig, seed: int, extremes: bool = False) -> GoldenMachine:
    """Return a machine whose memory and buffers are full of random bytes, or of extremes."""
    rng = np.random.default_rng(seed)
    machine = GoldenMachine(config)
    machine.reset(rng.integers(0, 256, MEMORY_BYTES, np.uint8))
    for name in ("ifm", "wgt", "vec", "ofm", "prm", "acc"):
        array = getattr(machine, name)
        codes = rng.integers(0, 256, array.nbytes, np.uint8)
        if extremes:
            codes = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), array.nbytes)
        array[:] = codes.view(array.dtype).reshape(array.shape)
    if not extremes:  # with biases of all 48 bits every code would be saturated
        machine.prm[:, 6:] = np.where(machine.prm[:, 5:6] & 0x80, 0xFF, 0)
    return machine


def fields_of(name: str, **given: int) -> dict[str, int]:
    """Return all fields of an instruction, as the decoder would."""
    return isa.decode(isa.encode(name, given))[1]


def random_load(rng: random.Random, config: AcceleratorConfig) -> dict[str, int]:
    """Return the fields of a load of some bytes below 8192, aligned or not."""
    R = config.R
    return fields_of(
        "load",
        buffer=rng.randrange(4),
        pad_code=rng.randint(-128, 127),
        address=rng.choice([rng.randint(0, 600), R * rng.randint(0, 80)]),
        plane_step=rng.choice([rng.randint(0, 900), R * rng.randint(0, 99)]),
        row_step=rng.choice([rng.randint(0, 200), R * rng.randint(0, 20)]),
        base=config.params_per_vector * rng.choice([rng.randint(0, 3), rng.randint(0, 50)]),
        planes=rng.randint(1, 3),
        rows=rng.randint(1, 4),
        vectors=rng.randint(1, rng.choice([2, 5, 40])),
        vector_step=rng.choice([1, 3, R - 1, R, R, R, R]),
        lead=rng.choice([0, 0, 1, R, 2 * R, 7 * R, rng.randint(0, 7 * R)]),
        row_bytes=rng.choice([1, 2, 30, rng.randint(1, 60), rng.randint(1, 300), 40 * R]),
    )


def random_store(rng: random.Random, config: AcceleratorConfig) -> dict[str, int]:
    """Return the fields of a store of some vectors below 8192; a few are misaligned."""
    R = config.R
    return fields_of(
        "store",
        address=R * rng.randint(0, 99) + (rng.random() < 0.05),
        plane_step=R * rng.randint(0, 60),
        row_step=R * rng.randint(0, 30) + (rng.random() < 0.05),
        base=rng.randint(0, rng.choice([9, config.ofm_depth])),
        planes=rng.randint(1, 3),
        rows=rng.randint(1, 4),
        vectors=rng.randint(1, rng.choice([3, 20])),
    )


def random_array(rng: random.Random, config: AcceleratorConfig) -> dict[str, int]:
    """Return the fields of an array instruction on a tile of up to 6 x 6."""
    rows, cols = rng.randint(1, 6), rng.randint(1, 6)
    blocks = rng.randint(1, 3)
    return fields_of(
        "array",
        ifm_base=rng.randint(0, 99),
        ifm_rows=rows,
        ifm_cols=cols,
        ifm_plane=rng.choice([rows * cols, rng.randint(0, 60)]),
        blocks=blocks,
        kernel_h=rng.randint(1, 3),
        kernel_w=rng.randint(1, 3),
        stride_h=rng.randint(0, 2),
        stride_w=rng.randint(1, 3),
        dilation_h=rng.randint(0, 3),
        dilation_w=rng.randint(1, 2),
        offset_h=rng.randint(-3, 2),
        offset_w=rng.randint(-3, 2),
        out_rows=rng.randint(1, 4),
        out_cols=rng.randint(1, 4),
        wgt_base=rng.randint(0, 9),
        acc_bank=rng.randrange(2),
        accumulate=rng.randrange(2),
        pad_code=rng.randint(-128, 127),
    )


def random_vector(rng: random.Random, config: AcceleratorConfig, name: str) -> dict[str, int]:
    """Return the fields of a vector instruction with the function ``name``, on up to 5 x 5."""
    L, R = config.drain_lanes, config.R
    function = isa.Function[name]
    rows, cols = rng.randint(1, 5), rng.randint(1, 5)
    out_rows, out_cols = rng.randint(1, 4), rng.randint(1, 4)
    chunks = rng.randint(1, config.K // L if name == "DRAIN" else 3 * R // L)
    given = dict(
        function=function,
        residual=rng.randrange(2) if name in ("DRAIN", "SUM") else 0,
        uniform=rng.randrange(2),
        lane=rng.randrange(R // L) * L,
        chunks=chunks,
        src_base=rng.randint(0, 20),
        src_rows=rows,
        src_cols=cols,
        src_plane=rows * cols,
        kernel_h=rng.randint(1, 3),
        kernel_w=rng.randint(1, 3),
        stride_h=rng.randint(0, 2),
        stride_w=rng.randint(1, 2),
        offset_h=rng.randint(-2, 2),
        offset_w=rng.randint(-2, 2),
        pad_code=rng.choice([-128, 0, 5]),
        acc_bank=rng.randrange(2),
        out_rows=out_rows,
        out_cols=out_cols,
        res_base=rng.randint(0, 20),
        res_plane=out_rows * out_cols,
        res_shift=rng.choice([0, 3, 39]),
        prm_base=rng.randint(0, 9),
        shift=rng.choice([0, 1, 24, 36, 47]),
        low=rng.choice([-128, -20, 0]),
        high=rng.choice([127, 30]),
        ofm_base=rng.randint(0, 5),
        ofm_plane=rng.choice([16, 20]),
        ofm_row_step=rng.choice([0, 4, 4]),
        ofm_col_step=1,
        den_h=rng.randint(1, 20),
        den_w=rng.randint(1, 20),
        channels=rng.randint(1, 3 * R),
    )
    given["step_h"] = min(rng.randint(0, 2), given["den_h"])
    given["step_w"] = min(rng.randint(0, 2), given["den_w"])
    given["frac_h"] = rng.randrange(given["den_h"])
    given["frac_w"] = rng.randrange(given["den_w"])
    if name == "ARGMAX":
        given |= dict(offset_h=0, offset_w=0, stride_h=1, stride_w=1)
        given |= dict(out_rows=min(out_rows, rows), out_cols=min(out_cols, cols))
    return fields_of("vector", **given)


def shaken(rng: random.Random, name: str, fields: Mapping[str, int]) -> dict[str, int]:
    """Return ``fields`` with up to three of them changed to anything that the decoder accepts."""
    result = dict(fields)
    table = next(item for item in isa.INSTRUCTIONS if item.name == name)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        field = rng.choice(table.fields)
        value = rng.choice(
            [
                field.low,
                field.high,
                rng.randint(field.low, field.high),
                rng.randint(-70, 70),
                rng.randint(0, 600),
                result[field.name] + rng.choice([-1, 1]),
            ]
        )
        result[field.name] = min(max(value, field.low), field.high)
    return result


def instruction_work(name: str, fields: Mapping[str, int]) -> int:
    """Return about how many vectors an instruction touches."""
    if name in ("load", "store"):
        return fields["planes"] * fields["rows"] * fields["vectors"]
    outputs = fields["out_rows"] * fields["out_cols"] if name in ("array", "vector") else 0
    if name == "array":
        return outputs * fields["kernel_h"] * fields["kernel_w"] * fields["blocks"]
    if name == "vector" and fields["function"] == Function.ARGMAX:
        return outputs * fields["channels"]
    if name == "vector":
        return outputs * fields["chunks"] * fields["kernel_h"] * fields["kernel_w"]
    return 0
