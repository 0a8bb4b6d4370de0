"""Small programs, written by hand."""

import numpy as np

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Buffer, Function, encode

__all__ = [
    "ARRAY",
    "END",
    "LOAD",
    "STORE",
    "VECTOR",
    "convolution",
    "copy",
    "load",
    "patched",
    "store",
    "vector_copy",
]

END = encode("end")
#: The units as bits of ``wait`` and ``signal``.
LOAD, ARRAY, VECTOR, STORE = (1 << unit for unit in isa.UNITS)


def load(config: AcceleratorConfig, buffer: Buffer, address: int, vectors: int, **options) -> bytes:
    """Return a load of whole vectors in one row; ``options`` are more fields or tokens."""
    header = {key: options.pop(key) for key in ("wait", "signal") if key in options}
    fields = {
        "buffer": buffer,
        "address": address,
        "vectors": vectors,
        "vector_step": config.R,
        "row_bytes": vectors * config.R,
    }
    return encode("load", fields | options, **header)


def vector_copy(config: AcceleratorConfig, vectors: int, **options) -> bytes:
    """Return a vector instruction that copies ``vectors`` from VEC to OFM (maximum over 1 x 1)."""
    header = {key: options.pop(key) for key in ("wait", "signal") if key in options}
    fields = {
        "function": Function.MAX,
        "chunks": config.chunks_per_vector,
        "src_rows": 1,
        "src_cols": vectors,
        "stride_h": 1,
        "stride_w": 1,
        "out_rows": 1,
        "out_cols": vectors,
        "ofm_row_step": vectors,
        "ofm_col_step": 1,
        "low": -128,
        "high": 127,
    }
    return encode("vector", fields | options, **header)


def store(config: AcceleratorConfig, address: int, vectors: int, **options) -> bytes:
    """Return a store of ``vectors`` in one row."""
    header = {key: options.pop(key) for key in ("wait", "signal") if key in options}
    return encode("store", {"address": address, "vectors": vectors} | options, **header)


def copy(config: AcceleratorConfig, source: int, target: int, vectors: int) -> list[bytes]:
    """Return a program that copies ``vectors`` vectors in memory."""
    return [
        load(config, Buffer.VEC, source, vectors, signal=VECTOR),
        vector_copy(config, vectors, wait=LOAD, signal=STORE),
        store(config, target, vectors, wait=VECTOR),
        END,
    ]


def patched(instruction: bytes, name: str, value: int) -> bytes:
    """Return ``instruction`` with the field ``name`` set to any value that its width can hold."""
    table = isa.opcode_of(instruction)
    assert table is not None
    field, offset = table.offsets()[name]
    word = int.from_bytes(instruction, "little") & ~(((1 << field.width) - 1) << offset)
    word |= (value & ((1 << field.width) - 1)) << offset
    return word.to_bytes(isa.INSTRUCTION_BYTES, "little")


def convolution(
    config: AcceleratorConfig,
    memory: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    multiplier: np.ndarray,
    bias: np.ndarray,
    *,
    padding: int,
    pad_code: int,
    shift: int,
    low: int,
    high: int,
    free: int,
) -> tuple[list[bytes], int]:
    """Return a program for one convolution of stride 1, and the offset of its result.

    ``x`` (C, H, W), ``weight`` (K, C, R, S) with C and K of at most one vector; input, weights and
    parameters are written into ``memory`` from ``free`` on. Each group of ``config.K`` output
    channels is one array instruction and one drain, in alternating accumulator banks.
    """
    R, K = config.R, config.K
    C, H, W = x.shape
    channels, _, kernel_h, kernel_w = weight.shape
    groups = -(-channels // K)
    P, Q = H + 2 * padding - kernel_h + 1, W + 2 * padding - kernel_w + 1
    place = free

    def put(array: np.ndarray) -> int:
        nonlocal place
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        start, place = place, -(-(place + len(data)) // 64) * 64
        memory[start : start + len(data)] = data
        return start

    ifm = np.full((H, W, R), 77, np.int8)  # lanes without a channel meet weights of zero
    ifm[:, :, :C] = x.transpose(1, 2, 0)
    wgt = np.zeros((groups, kernel_h, kernel_w, K, R), np.int8)
    for k in range(channels):
        wgt[k // K, :, :, k % K, :C] = weight[k].transpose(1, 2, 0)
    prm = np.zeros(groups * K, np.int64)
    prm[:channels] = (multiplier.astype(np.int64) & 0xFFFF) | (bias << 16)
    pairs = config.params_per_vector
    prm = np.concatenate([prm, np.zeros(-len(prm) % pairs, np.int64)])
    at_ifm, at_wgt, at_prm = put(ifm), put(wgt), put(prm)
    result = put(np.zeros((P, Q, R), np.int8))

    taps = kernel_h * kernel_w
    program = [
        load(config, Buffer.PRM, at_prm, len(prm) // pairs),
        load(config, Buffer.IFM, at_ifm, H * W),
        load(config, Buffer.WGT, at_wgt, groups * taps * K, signal=ARRAY),
    ]
    for g in range(groups):
        program.append(
            encode(
                "array",
                {
                    "ifm_rows": H,
                    "ifm_cols": W,
                    "blocks": 1,
                    "kernel_h": kernel_h,
                    "kernel_w": kernel_w,
                    "stride_h": 1,
                    "stride_w": 1,
                    "dilation_h": 1,
                    "dilation_w": 1,
                    "offset_h": -padding,
                    "offset_w": -padding,
                    "out_rows": P,
                    "out_cols": Q,
                    "wgt_base": g * taps * K,
                    "acc_bank": g % 2,
                    "pad_code": pad_code,
                },
                wait=(LOAD if g == 0 else 0) | (VECTOR if g >= 2 else 0),
                signal=VECTOR,
            )
        )
        program.append(
            encode(
                "vector",
                {
                    "function": Function.DRAIN,
                    "lane": g * K % R,
                    "chunks": K // config.drain_lanes,
                    "acc_bank": g % 2,
                    "out_rows": P,
                    "out_cols": Q,
                    "prm_base": g * K,
                    "shift": shift,
                    "low": low,
                    "high": high,
                    "ofm_row_step": Q,
                    "ofm_col_step": 1,
                },
                wait=ARRAY,
                signal=(ARRAY if g + 2 < groups else 0) | (STORE if g == groups - 1 else 0),
            )
        )
    program.append(store(config, result, P * Q, wait=VECTOR))
    program.append(END)
    return program, result
