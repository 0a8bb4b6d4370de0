"""The clock of a board: a phase-locked loop, or its input in simulation."""

from dataclasses import dataclass

from amaranth.hdl import ClockDomain, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

from intaglio_hw.primitives import check_family

__all__ = ["ClockGenerator", "Ice40PllSettings", "PllSettings", "Settings", "pll_settings"]

#: Ranges of the ECP5's EHXPLLL in MHz, from Lattice's data sheet FPGA-DS-02012: phase detector and
#: oscillator.
_DETECTOR_MHZ = (3.125, 400.0)
_OSCILLATOR_MHZ = (400.0, 800.0)
#: Divisors of each counter.
_MOST_DIVISOR = 128
#: The same of the iCE40's SB_PLL40, from Lattice's data sheet FPGA-DS-02008, and its output.
_ICE40_DETECTOR_MHZ = (10.0, 133.0)
_ICE40_OSCILLATOR_MHZ = (533.0, 1066.0)
_ICE40_OUTPUT_MHZ = (16.0, 275.0)
#: Its divisors: DIVR and DIVF hold one less, DIVQ the logarithm.
_ICE40_MOST_REFERENCE, _ICE40_MOST_FEEDBACK = 16, 128
_ICE40_OUTPUTS = (2, 4, 8, 16, 32, 64)
#: Value of FILTER_RANGE: number of these frequencies of the detector that are reached, plus one
#: (Project IceStorm, icepll).
_ICE40_FILTER_MHZ = (17.0, 26.0, 44.0, 66.0, 101.0)
#: Block RAM of the iCE40 reads as zero for some microseconds after the chip was configured, and
#: the microprogram stands in it (github.com/YosysHQ/icestorm/issues/76: 3 us were measured, which
#: is longer than a PLL may need).
_ICE40_MEMORY_US = 10


@dataclass(frozen=True)
class PllSettings:
    """Divisors of an EHXPLLL whose feedback is its first output.

    That output has the frequency ``input_mhz * feedback / reference``, the oscillator that times
    ``output``.
    """

    input_mhz: float
    reference: int
    feedback: int
    output: int

    @property
    def mhz(self) -> float:
        """Value of the frequency of the output in MHz."""
        return self.input_mhz * self.feedback / self.reference


@dataclass(frozen=True)
class Ice40PllSettings:
    """Divisors of an SB_PLL40 with simple feedback, which is of its oscillator.

    The oscillator has ``input_mhz * feedback / reference``, its output an ``output``-th of that.
    """

    input_mhz: float
    reference: int
    feedback: int
    output: int

    @property
    def oscillator_mhz(self) -> float:
        """Value of the frequency of the oscillator in MHz."""
        return self.input_mhz * self.feedback / self.reference

    @property
    def mhz(self) -> float:
        """Value of the frequency of the output in MHz."""
        return self.oscillator_mhz / self.output

    @property
    def filter_range(self) -> int:
        """Value of FILTER_RANGE."""
        detector = self.input_mhz / self.reference
        return 1 + sum(detector >= mhz for mhz in _ICE40_FILTER_MHZ)


Settings = PllSettings | Ice40PllSettings


def pll_settings(input_mhz: float, mhz: float, *, family: str = "ecp5") -> Settings:
    """Return the settings that come closest to ``mhz`` without going above it.

    Parameters
    ----------
    family
        ``"ecp5"`` or ``"ice40"``.

    Raises
    ------
    ValueError
        No settings come within 10 % below ``mhz``.
    """
    best = (_ice40_settings if family == "ice40" else _ecp5_settings)(input_mhz, mhz)
    if best is None or best.mhz < 0.9 * mhz:
        raise ValueError(f"no PLL settings make {mhz} MHz out of {input_mhz} MHz")
    return best


def _ecp5_settings(input_mhz: float, mhz: float) -> PllSettings | None:
    """Return the settings that come closest to ``mhz`` from below, if there are any."""
    found = []
    for reference in range(1, _MOST_DIVISOR + 1):
        if not _DETECTOR_MHZ[0] <= input_mhz / reference <= _DETECTOR_MHZ[1]:
            continue
        feedback = min(_MOST_DIVISOR, int(mhz * reference / input_mhz * (1 + 1e-9)))
        if feedback < 1:
            continue
        reached = input_mhz * feedback / reference
        outputs = [
            output
            for output in range(1, _MOST_DIVISOR + 1)
            if _OSCILLATOR_MHZ[0] <= reached * output <= _OSCILLATOR_MHZ[1]
        ]
        if outputs:
            # The detector as fast as possible, the oscillator in the middle of its range.
            output = min(outputs, key=lambda n: abs(reached * n - sum(_OSCILLATOR_MHZ) / 2))
            found.append((-reached, reference, PllSettings(input_mhz, reference, feedback, output)))
    return min(found, key=lambda item: item[:2])[2] if found else None


def _ice40_settings(input_mhz: float, mhz: float) -> Ice40PllSettings | None:
    """Return the settings that come closest to ``mhz`` from below, if there are any."""
    found = []
    for reference in range(1, _ICE40_MOST_REFERENCE + 1):
        if not _ICE40_DETECTOR_MHZ[0] <= input_mhz / reference <= _ICE40_DETECTOR_MHZ[1]:
            continue
        for output in _ICE40_OUTPUTS:
            fastest = min(mhz * output, _ICE40_OSCILLATOR_MHZ[1])
            feedback = int(fastest * reference / input_mhz * (1 + 1e-9))
            if not 1 <= feedback <= _ICE40_MOST_FEEDBACK:
                continue
            settings = Ice40PllSettings(input_mhz, reference, feedback, output)
            if settings.oscillator_mhz < _ICE40_OSCILLATOR_MHZ[0]:
                continue
            if _ICE40_OUTPUT_MHZ[0] <= settings.mhz <= _ICE40_OUTPUT_MHZ[1]:
                found.append((-settings.mhz, reference, settings))
    return min(found, key=lambda item: item[:2])[2] if found else None


class ClockGenerator(wiring.Component):
    """Drives the domain ``sync``, which its parent defines, from an oscillator.

    Parameters
    ----------
    settings
        Frequencies and divisors.
    family
        ``"ecp5"`` has an EHXPLLL, ``"ice40"`` an SB_PLL40_PAD, whose input is a pin;
        ``"generic"`` is for simulation and passes the oscillator on.

    Members
    -------
    oscillator
        The input clock.
    reset
        Asynchronous, high: resets the domain.

    The domain leaves its reset two cycles after the loop has locked and ``reset`` has gone; on the
    iCE40, not before the contents of block RAM are there.
    """

    def __init__(self, *, settings: Settings, family: str = "generic") -> None:
        self.settings, self.family = settings, check_family(family)
        super().__init__({"oscillator": In(1), "reset": In(1)})

    def elaborate(self, platform):
        m = Module()
        locked = Signal()
        ready = locked
        if self.family == "ecp5":
            m.submodules.pll = self._ehxplll(locked)
        elif self.family == "ice40":
            m.submodules.pll = self._sb_pll40_pad(locked)
            ready = self._wait_for_memories(m, locked)
        else:
            m.d.comb += [ClockSignal("sync").eq(self.oscillator), locked.eq(1)]
        m.submodules.synchronizer = ResetSynchronizer(self.reset | ~ready, domain="sync")
        return m

    def _wait_for_memories(self, m: Module, locked: Signal) -> Signal:
        """Return a register that is set when the loop has been locked for _ICE40_MEMORY_US
        microseconds.
        """
        m.domains.waiting = ClockDomain(local=True)
        m.d.comb += ClockSignal("waiting").eq(ClockSignal("sync"))
        m.submodules.lock = ResetSynchronizer(~locked, domain="waiting")
        cycles = round(_ICE40_MEMORY_US * self.settings.mhz)
        left = Signal(range(cycles + 1), init=cycles)
        ready = Signal()
        with m.If(left == 0):
            m.d.waiting += ready.eq(1)
        with m.Else():
            m.d.waiting += left.eq(left - 1)
        return ready

    def _sb_pll40_pad(self, locked: Signal) -> Instance:
        settings = self.settings
        assert isinstance(settings, Ice40PllSettings)
        return Instance(
            "SB_PLL40_PAD",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(settings.reference - 1, 4),
            p_DIVF=Const(settings.feedback - 1, 7),
            p_DIVQ=Const(settings.output.bit_length() - 1, 3),
            p_FILTER_RANGE=Const(settings.filter_range, 3),
            i_PACKAGEPIN=self.oscillator,
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=ClockSignal("sync"),
            o_LOCK=locked,
        )

    def _ehxplll(self, locked: Signal) -> Instance:
        settings = self.settings
        assert isinstance(settings, PllSettings)
        clock = ClockSignal("sync")
        return Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{settings.input_mhz:g}",
            a_FREQUENCY_PIN_CLKOP=f"{settings.mhz:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=settings.reference,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=settings.output,
            p_CLKOP_CPHASE=settings.output // 2,
            p_CLKOP_FPHASE=0,
            p_FEEDBK_PATH="CLKOP",
            p_CLKFB_DIV=settings.feedback,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_CLKI=self.oscillator,
            i_CLKFB=clock,
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            o_CLKOP=clock,
            o_LOCK=locked,
        )
