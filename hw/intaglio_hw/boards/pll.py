"""The clock of a board: a phase-locked loop, or its input in simulation."""

from dataclasses import dataclass

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

from intaglio_hw.primitives import check_family

__all__ = ["ClockGenerator", "PllSettings", "pll_settings"]

#: Ranges of the ECP5's EHXPLLL in MHz, from Lattice's data sheet FPGA-DS-02012: phase detector and
#: oscillator.
_DETECTOR_MHZ = (3.125, 400.0)
_OSCILLATOR_MHZ = (400.0, 800.0)
#: Divisors of each counter.
_MOST_DIVISOR = 128


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


def pll_settings(input_mhz: float, mhz: float) -> PllSettings:
    """Return the settings that come closest to ``mhz`` without going above it.

    Raises
    ------
    ValueError
        No settings come within 10 % below ``mhz``.
    """
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
    best = min(found, default=None, key=lambda item: item[:2])
    if best is None or best[2].mhz < 0.9 * mhz:
        raise ValueError(f"no PLL settings make {mhz} MHz out of {input_mhz} MHz")
    return best[2]


class ClockGenerator(wiring.Component):
    """Drives the domain ``sync``, which its parent defines, from an oscillator.

    Parameters
    ----------
    settings
        Frequencies and divisors.
    family
        ``"ecp5"`` has an EHXPLLL; ``"generic"`` is for simulation and passes the oscillator on.

    Members
    -------
    oscillator
        The input clock.
    reset
        Asynchronous, high: resets the domain.

    The domain leaves its reset two cycles after the loop has locked and ``reset`` has gone.
    """

    def __init__(self, *, settings: PllSettings, family: str = "generic") -> None:
        self.settings, self.family = settings, check_family(family)
        super().__init__({"oscillator": In(1), "reset": In(1)})

    def elaborate(self, platform):
        m = Module()
        locked = Signal()
        if self.family == "ecp5":
            m.submodules.pll = self._ehxplll(locked)
        else:
            m.d.comb += [ClockSignal("sync").eq(self.oscillator), locked.eq(1)]
        m.submodules.synchronizer = ResetSynchronizer(self.reset | ~locked, domain="sync")
        return m

    def _ehxplll(self, locked: Signal) -> Instance:
        settings = self.settings
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
