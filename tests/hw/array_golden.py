"""The array instruction in numpy, written from the text of the instruction table alone."""

import random

import numpy as np

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error

__all__ = ["array_golden", "random_array", "scratchpad"]


def array_golden(
    config: AcceleratorConfig,
    fields: dict[str, int],
    ifm: np.ndarray,  # (ifm_depth, R) int8
    wgt: np.ndarray,  # (wgt_depth, R) int8
    acc: np.ndarray,  # (2, acc_depth, K) int64, the values of int32; changed in place
) -> Error:
    """Run one instruction. An error leaves the bank as it was (hardware leaves it undefined)."""
    f, K = fields, config.K
    P, Q = f["out_rows"], f["out_cols"]
    passes = f["blocks"] * f["kernel_h"] * f["kernel_w"]
    if P * Q > config.acc_depth or f["wgt_base"] + passes * K > config.wgt_depth:
        return Error.BUFFER
    total = np.zeros((P * Q, K), np.int64)
    place = f["wgt_base"]
    for b in range(f["blocks"]):
        for r in range(f["kernel_h"]):
            for s in range(f["kernel_w"]):
                weights = wgt[place : place + K].astype(np.int64)  # (K, R)
                place += K
                h = np.arange(P) * f["stride_h"] + r * f["dilation_h"] + f["offset_h"]
                w = np.arange(Q) * f["stride_w"] + s * f["dilation_w"] + f["offset_w"]
                inside = ((h >= 0) & (h < f["ifm_rows"]))[:, None] & (
                    (w >= 0) & (w < f["ifm_cols"])
                )[None]
                address = f["ifm_base"] + b * f["ifm_plane"] + h[:, None] * f["ifm_cols"] + w[None]
                if (address[inside] >= config.ifm_depth).any():
                    return Error.BUFFER
                pixels = np.full((P, Q, config.R), f["pad_code"], np.int64)
                pixels[inside] = ifm[address[inside]]
                total += pixels.reshape(P * Q, config.R) @ weights.T
    bank = acc[f["acc_bank"]]
    if f["accumulate"]:
        total += bank[: P * Q]
    bank[: P * Q] = (total + (1 << 31)) % (1 << 32) - (1 << 31)
    return Error.NONE


def scratchpad(rng: random.Random, depth: int, R: int) -> np.ndarray:
    """Return (depth, R) int8, a quarter of it extremes."""
    generator = np.random.default_rng(rng.getrandbits(64))
    codes = generator.integers(-128, 128, (depth, R))
    edges = generator.choice([-128, -127, -1, 0, 1, 127], (depth, R))
    return np.where(generator.random((depth, R)) < 0.25, edges, codes).astype(np.int8)


def random_array(
    config: AcceleratorConfig, rng: random.Random, *, max_passes: int = 12, **fixed: int
) -> dict[str, int]:
    """Return the fields of a random instruction; about one in eight has an error.

    Sizes are biased towards one, tiles may be left on every side or missed altogether.
    """

    def small(high: int) -> int:
        return rng.choice([1, 1, rng.randint(1, high), rng.randint(1, high)])

    wild = rng.random() < 0.15
    kernel_h, kernel_w = small(4), small(4)
    blocks = min(small(3), max(1, max_passes // (kernel_h * kernel_w)))
    P = small(config.acc_depth)
    Q = rng.randint(1, max(1, config.acc_depth // P))
    P, Q = rng.choice([(P, Q), (Q, P), (min(P, 4), min(Q, 4))])
    rows, cols = small(16), small(16)
    plane = rng.choice([rows * cols, 0, rng.randint(0, 2 * rows * cols)])
    room = config.ifm_depth - (rows * cols + (blocks - 1) * plane)
    if room < 0:
        plane, room = 0, config.ifm_depth - rows * cols
    passes = blocks * kernel_h * kernel_w
    wgt_room = config.wgt_depth - passes * config.K
    fields = {
        "ifm_base": rng.choice([0, room, rng.randint(0, room)]),
        "ifm_rows": rows,
        "ifm_cols": cols,
        "ifm_plane": plane,
        "blocks": blocks,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": rng.choice([0, 1, 1, 2, 3, 255]),
        "stride_w": rng.choice([0, 1, 1, 2, 3, 255]),
        "dilation_h": rng.choice([0, 1, 1, 2, 6, 255]),
        "dilation_w": rng.choice([0, 1, 1, 2, 6, 255]),
        "offset_h": rng.choice([0, -1, rng.randint(-6, 6), rng.randint(-6, 6), -4096, 4095]),
        "offset_w": rng.choice([0, -1, rng.randint(-6, 6), rng.randint(-6, 6), -4096, 4095]),
        "out_rows": P,
        "out_cols": Q,
        "wgt_base": rng.choice([0, wgt_room, rng.randint(0, wgt_room)]),
        "acc_bank": rng.randint(0, 1),
        "accumulate": rng.randint(0, 1),
        "pad_code": rng.choice([0, -128, 127, rng.randint(-128, 127)]),
    }
    if wild:
        name, value = rng.choice(
            [
                ("ifm_base", rng.randint(0, 65535)),
                ("ifm_base", rng.randint(max(0, config.ifm_depth - 20), config.ifm_depth)),
                ("ifm_plane", rng.randint(0, 65535)),
                ("wgt_base", rng.randint(0, 65535)),
                ("wgt_base", config.wgt_depth - rng.randint(0, 2 * config.K)),
                ("out_rows", rng.choice([config.acc_depth + 1, 4095])),
            ]
        )
        fields[name] = value
    return fields | fixed
