"""Signatures between the accelerator's components.

*Streams* follow ``amaranth.lib.stream``: a transfer happens in each cycle with ``valid & ready``;
``valid`` does not wait for ``ready`` and, once high, stays high with an unchanged payload until the
transfer.

*Units* take decoded instructions from a stream and answer each with one ``done`` pulse, in order:

1. At most ``IN_FLIGHT`` instructions are accepted but not done.
2. The unit copies the fields it needs when it accepts; the payload may change in the next cycle.
3. ``done`` is high for one cycle when the last effect of the oldest instruction is visible to the
   other units; ``error`` is valid in that cycle, ``Error.NONE`` if all went well.
4. An access outside a buffer or the memory is not performed; the unit then ends the instruction
   early and reports the error.
5. While ``stop`` is high nothing is offered, and the unit ends what it does as soon as the bus
   allows (started bursts are completed), with the usual ``done`` pulses. From the second cycle of
   ``stop`` on it accepts nothing.

*Memory ports* of the scratchpads never stall: data is valid READ_LATENCY cycles after ``addr`` was
presented; that of the accumulators, which lie all over the chip, DRAIN_LATENCY cycles after it.
"""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig

__all__ = [
    "ADDRESS_BITS",
    "DRAIN_LATENCY",
    "ERROR_BITS",
    "IN_FLIGHT",
    "READ_LATENCY",
    "AxiReadSignature",
    "AxiWriteSignature",
    "ReadPortSignature",
    "UnitSignature",
    "WritePortSignature",
    "address_width",
    "follow_offer",
    "instruction_layout",
]

#: Width of addresses on the memory bus.
ADDRESS_BITS = 32
#: Width of an error code on a unit's port.
ERROR_BITS = 4
#: Instructions that a unit may have accepted and not finished.
IN_FLIGHT = 2
#: Cycles from address to data of a scratchpad read (a block RAM with its output register).
READ_LATENCY = 2
#: Cycles from address to data of an accumulator read by the vector unit: a register on the way to
#: all lanes, one before the block RAM, and one on the way back.
DRAIN_LATENCY = READ_LATENCY + 3


def address_width(depth: int) -> int:
    """Return the bits of an address into ``depth`` rows, a power of two."""
    return (depth - 1).bit_length()


def instruction_layout(instruction: isa.Instruction) -> data.StructLayout:
    """Return the layout of the fields of ``instruction`` after the header, in the order of the
    table.
    """
    return data.StructLayout(
        {f.name: signed(f.width) if f.signed else unsigned(f.width) for f in instruction.fields}
    )


class UnitSignature(wiring.Signature):
    """The port through which the sequencer drives a unit, as the unit sees it.

    Members: ``instruction`` (stream of :func:`instruction_layout`), ``done``, ``error``, ``stop``.

    With ``held`` the unit copies nothing: the payload is a register, which took what was offered at
    the end of each cycle with ``follow``, and holds it otherwise. So it is that of an instruction
    from the cycle after its transfer on.
    """

    def __init__(self, instruction: isa.Instruction, *, held: bool = False) -> None:
        super().__init__(
            {
                "instruction": In(stream.Signature(instruction_layout(instruction))),
                "done": Out(1),
                "error": Out(ERROR_BITS),
                "stop": In(1),
                **({"follow": Out(1)} if held else {}),
            }
        )


def follow_offer(
    m: Module, port: wiring.PureInterface, follow: Value, *fields: Any, also: Sequence[Any] = ()
) -> None:
    """Let ``fields``, assignments from the payload of a unit's ``port``, follow what is offered
    while ``follow`` is high, and stay afterwards: in registers, or in that behind a held port.
    ``also``: other registers that are assigned then.
    """
    registers = [*fields, *also]
    if hasattr(port, "follow"):
        m.d.comb += [port.follow.eq(follow), *fields]
        registers = [*also]
    if registers:
        with m.If(follow):
            m.d.sync += registers


class ReadPortSignature(wiring.Signature):
    """A read port as the reader sees it: ``data`` is row ``addr`` of READ_LATENCY cycles ago, of
    an accumulator DRAIN_LATENCY cycles ago.
    """

    def __init__(self, *, depth: int, width: int) -> None:
        super().__init__({"addr": Out(address_width(depth)), "data": In(width)})


class WritePortSignature(wiring.Signature):
    """A write port as the writer sees it: ``en`` has one bit for each ``granularity`` bits of
    ``data``.
    """

    def __init__(self, *, depth: int, width: int, granularity: int | None = None) -> None:
        granularity = width if granularity is None else granularity
        if width % granularity:
            raise ValueError(f"granularity must divide the width {width}, not {granularity}")
        super().__init__(
            {
                "addr": Out(address_width(depth)),
                "data": Out(width),
                "en": Out(width // granularity),
            }
        )


class AxiReadSignature(wiring.Signature):
    """The read channels of an AXI4 manager: incrementing bursts of whole beats, one ID, one
    outstanding order.

    ``ar``: ``addr`` (bus address, a multiple of the beat), ``len`` (beats minus one). ``r``:
    ``data``, ``resp``, ``last``. A burst never crosses a 4096-byte boundary; beats arrive in the
    order of the bursts.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "ar": Out(stream.Signature(data.StructLayout({"addr": ADDRESS_BITS, "len": 8}))),
                "r": In(
                    stream.Signature(
                        data.StructLayout({"data": 8 * config.bus_bytes, "resp": 2, "last": 1})
                    )
                ),
            }
        )


class AxiWriteSignature(wiring.Signature):
    """The write channels of an AXI4 manager, whole beats, as :class:`AxiReadSignature`.

    ``aw``: ``addr``, ``len``. ``w``: ``data``, ``last``; all byte strobes are set. ``b``: ``resp``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "aw": Out(stream.Signature(data.StructLayout({"addr": ADDRESS_BITS, "len": 8}))),
                "w": Out(
                    stream.Signature(data.StructLayout({"data": 8 * config.bus_bytes, "last": 1}))
                ),
                "b": In(stream.Signature(data.StructLayout({"resp": 2}))),
            }
        )
