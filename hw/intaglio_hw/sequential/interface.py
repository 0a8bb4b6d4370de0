"""What engine and microprogram share: operations, conditions, sources, ports, places.

An instruction of the engine is a word of WORD_BITS: ``op[23:16] d[15:8] s[7:0]``. The two upper
bits of ``op`` say what operand b is (:class:`Mode`); with ``CONTROL`` they begin an instruction of
:class:`Control`, otherwise the five lower bits are an :class:`Operation` of a, which is register
``d``, and b. Every instruction takes three cycles and sees all that those before it did.

*Flags.* Z: the result is zero; N: its bit 15; C: carry, of a subtraction that nothing was borrowed,
of a shift the bit that left; V: overflow of signed numbers. A number of several words is computed
from its lowest word on, with ADC, SBC and CPC after the first: then Z, N, C and V are of the whole.

*Scratchpads.* One memory of vectors, :class:`~intaglio_hw.sequential.layout.Layout`. The engine
sees it as words of 16 bits, four in a vector, the byte of an even lane lower, through a pointer; it
has to wait until the datapaths that use it are not busy.

*Registers* from REGISTER_MAP on are the register map of the bus, :func:`register_number`.
"""

import enum

from intaglio.spec import regs

__all__ = [
    "INSTRUCTION_CYCLES",
    "INVERT",
    "REGISTERS",
    "REGISTER_MAP",
    "TARGET_BITS",
    "TRAP_PLACE",
    "WORD_BITS",
    "Condition",
    "Control",
    "Mode",
    "Operation",
    "Port",
    "Source",
    "register_number",
]

WORD_BITS = 24
#: Cycles of every instruction.
INSTRUCTION_CYCLES = 3
#: Bits of a place in the microprogram.
TARGET_BITS = 12
#: Registers of 16 bits; the upper ones are the register map.
REGISTERS = 256
REGISTER_MAP = 0xC0


class Mode(enum.IntEnum):
    """What operand b is: bits 7 and 6 of ``op``."""

    REGISTER = 0
    IMMEDIATE = 1
    SPECIAL = 2
    CONTROL = 3


class Operation(enum.IntEnum):
    """What is done with operands a and b: bits 4 to 0 of ``op``.

    ======== ============================================= =======
    name     result, in register d                         flags
    ======== ============================================= =======
    MOV      b
    AND      a and b                                       Z N
    OR       a or b                                        Z N
    XOR      a exclusive or b                              Z N
    SWP      b with its bytes exchanged
    SXT      lower byte of b, sign-extended
    SHR      b >> 1                                        Z N C
    SAR      b >> 1 of a signed number                     Z N C
    ROR      b >> 1 with C as bit 15                       Z N C
    TST      as AND, not written                           Z N
    MUL      not written: products PL, PHS, PHM, PHU
    ADD, ADC a + b, a + b + C                              Z N C V
    SUB, SBC a - b, a - b - 1 + C                          Z N C V
    CMP, CPC as SUB, SBC, not written                      Z N C V
    ======== ============================================= =======
    """

    MOV = 0x00
    AND = 0x01
    OR = 0x02
    XOR = 0x03
    SWP = 0x04
    SXT = 0x05
    SHR = 0x06
    SAR = 0x07
    ROR = 0x08
    TST = 0x09
    MUL = 0x0F
    ADD = 0x10
    ADC = 0x11
    SUB = 0x12
    SBC = 0x13
    CMP = 0x16
    CPC = 0x17


class Control(enum.IntEnum):
    """Instructions of Mode.CONTROL: bits 7 to 4 of ``op``.

    JUMP and CALL have bits 11 to 8 of their target in bits 3 to 0 and the others in ``s``; ``d`` of
    JUMP is a :class:`Condition`, CALL leaves the place behind it in register ``d``. JR, to operand
    b, and OUT, of b to the port ``d``, have the mode of b in bits 1 and 0.
    """

    JUMP = 0xC
    CALL = 0xD
    JR = 0xE
    OUT = 0xF


class Condition(enum.IntEnum):
    """Conditions of JUMP: bits 3 to 0 of ``d``; INVERT is its bit 4.

    LT, LE: of signed numbers that were compared; HI: above, of unsigned ones. BUSY: a program runs.
    ATT: STOP or the timer has expired. STOP: the bus asks for it. The others: of the datapaths.
    """

    ALWAYS = 0
    Z = 1
    C = 2
    N = 3
    LT = 4
    LE = 5
    HI = 6
    BUSY = 7
    ATT = 8
    STOP = 9
    DMA_BUSY = 10
    DMA_ERR = 11
    ARR_BUSY = 12
    ARR_ERR = 13
    DRAIN_BUSY = 14


INVERT = 0x10
#: Where the microprogram goes on when a trap is armed and Condition.ATT holds.
TRAP_PLACE = 2


class Source(enum.IntEnum):
    """Special sources of operand b.

    SPW: word at the scratchpad pointer; SPWI: the same, the pointer moves on; SBX: a byte of it,
    sign-extended. ACCL, ACCH: halves of the accumulator at the accumulator pointer; ACCHI: the
    pointer moves on. PL: low half of the last products; PHS, PHM, PHU: high half, a and b both
    signed, b alone, none. TIML, TIMH: halves of the timer.
    """

    SPW = 0
    SPWI = 1
    SBX = 2
    ACCL = 3
    ACCH = 4
    ACCHI = 5
    PL = 6
    PHS = 7
    PHM = 8
    PHU = 9
    TIML = 10
    TIMH = 11


class Port(enum.IntEnum):
    """Ports of OUT.

    ====================== =======================================================================
    SPA                    scratchpad pointer, in words
    SPW, SPWI              word at the pointer; SPWI moves it on
    SPBYTE, BSEL           byte BSEL (1: upper) of the word at the pointer; the other one stays
    ACCA                   accumulator pointer
    TIMH, TIML             the timer; TIML starts it
    TIMX                   bit 0: stop the timer, bit 1: it never expires; it has not expired
    RDY                    let the bus in
    FIN                    the program has ended: bit 0 done, bit 1 failed
    TRXL, TRXH, TRACE      index of an instruction; pulses of trace_start, trace_done (bits 7 to 4)
    TRAP                   bit 0: go on at TRAP_PLACE, once, when ATT holds
    DMAL, DMAH, DMAV       burst: bus address; first vector of the scratchpads
    DMAGO                  start it: beats - 1, bit 15: to the bus
    AWGT                   array: vector of the weights; moves on with each AGO
    AA0L, AA0H             place in IFM of output row 0, column 0, mod 2**25
    AH0, AW0               its row and column, signed; 4096 stands for all above 4095
    AROWS, ACOLS           rows and columns of the tile
    ASH, ASW               strides
    ARSL, ARSH             stride_h * ifm_cols
    AP, AQ                 output rows and columns, minus one
    APAD                   code outside of the tile
    AACC                   first accumulator
    AGO                    start a pass: bit 0: sums start from zero
    QB0 to QB2, QM, QS     drain: bias, multiplier, shift
    QLOW, QHIGH            bounds
    QSTEP                  vectors from code to code
    QGO                    start: accumulators - 1; from ACCA on to byte BSEL at SPA
    ====================== =======================================================================
    """

    SPA = 0
    SPW = 1
    SPWI = 2
    SPBYTE = 3
    BSEL = 4
    ACCA = 5
    TIMH = 6
    TIML = 7
    TIMX = 8
    RDY = 9
    FIN = 10
    TRXL = 11
    TRXH = 12
    TRACE = 13
    TRAP = 14
    DMAL = 16
    DMAH = 17
    DMAV = 18
    DMAGO = 19
    AWGT = 32
    AA0L = 33
    AA0H = 34
    AH0 = 35
    AW0 = 36
    AROWS = 37
    ACOLS = 38
    ASH = 39
    ASW = 40
    ARSL = 41
    ARSH = 42
    AP = 43
    AQ = 44
    APAD = 45
    AACC = 46
    AGO = 47
    QB0 = 48
    QB1 = 49
    QB2 = 50
    QM = 51
    QS = 52
    QLOW = 53
    QHIGH = 54
    QSTEP = 55
    QGO = 56


def register_number(name: str) -> int:
    """Return the number of the register that holds the low half of ``name`` of the register map."""
    address = regs.register(name).address
    return REGISTER_MAP | (address >> 7 & 1) << 5 | (address >> 2 & 15) << 1
