"""The array unit: a weight-stationary systolic array and its control."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.timing import ArrayTiming
from intaglio_hw.accumulator import ACCUMULATOR_BITS, Accumulator, access_layout
from intaglio_hw.array_control import ArraySetup, PixelWalk, WeightFetch
from intaglio_hw.interfaces import DRAIN_LATENCY, READ_LATENCY, ReadPortSignature, UnitSignature
from intaglio_hw.lane import Lane, Multiplier

__all__ = ["ArrayUnit"]


def _delay(m, value, cycles, *, name, reset_less=True):
    """Return ``value`` of ``cycles`` cycles ago."""
    for stage in range(cycles):
        delayed = Signal(value.shape(), name=f"{name}_{stage + 1}", reset_less=reset_less)
        m.d.sync += delayed.eq(value)
        value = delayed
    return value


class ArrayUnit(wiring.Component):
    """R reduction lanes x K output lanes; runs ``array`` instructions
    (:data:`intaglio.spec.isa.ARRAY`).

    Members
    -------
    unit
        The sequencer's port (:class:`~intaglio_hw.interfaces.UnitSignature`). The only error is
        BUFFER: an in-tile position outside IFM, weights outside WGT, or P * Q larger than
        ``acc_depth``. An instruction with an error ends within a few cycles after the access and
        leaves its bank undefined, never anything else.
    ifm, wgt
        Read ports, rows of R codes.
    acc
        Read port of the accumulators for the vector unit: ``addr`` = bank * acc_depth + pixel,
        ``data`` = K x int32, lane 0 lowest. The bank that the array is working on reads as
        anything.
    busy_pixel
        High in each cycle in which one pixel is multiplied: in passes * P * Q cycles of an
        instruction.

    Timing
    ------
    :class:`intaglio.spec.timing.ArrayTiming`: an instruction takes
    ``startup + (passes - 1) * max(P * Q, min_pass) + (P * Q - 1) + drain`` cycles from its transfer
    to ``done`` in an idle unit; passes = blocks * kernel_h * kernel_w. Set-up and first weights of
    the next instruction overlap with the current one (:class:`intaglio.spec.timing.ArraySchedule`
    is exact).

    Structure: pixels, weights and control move through a chain of lanes, one lane each cycle; lane
    k works k cycles later than lane 0. While a pass streams its pixels, the weights of the next one
    travel down the chain into shadow registers and become active with the first pixel of their
    pass.
    """

    def __init__(
        self, *, config: AcceleratorConfig, family: str = "generic", lean: bool = False
    ) -> None:
        self.config, self.family, self.lean = config, family, lean
        super().__init__(
            {
                "unit": Out(UnitSignature(isa.ARRAY, held=lean)),
                "ifm": Out(ReadPortSignature(depth=config.ifm_depth, width=8 * config.R)),
                "wgt": Out(ReadPortSignature(depth=config.wgt_depth, width=8 * config.R)),
                "acc": In(
                    ReadPortSignature(depth=2 * config.acc_depth, width=ACCUMULATOR_BITS * config.K)
                ),
                "busy_pixel": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        timing = ArrayTiming(config)

        m.submodules.setup = setup = ArraySetup(held=self.lean)
        m.submodules.weights = weights = WeightFetch(config=config)
        m.submodules.walk = walk = PixelWalk(config=config)
        stop = Signal()
        done = Signal()
        error = Signal()
        m.d.sync += stop.eq(self.unit.stop)
        wiring.connect(m, wiring.flipped(self.unit.instruction), setup.instruction)
        if self.lean:
            m.d.comb += self.unit.follow.eq(setup.follow)
        m.d.comb += [
            setup.stop.eq(self.unit.stop),
            setup.done.eq(done),
            setup.take.eq(walk.take),
            walk.upcoming.eq(setup.upcoming),
            walk.present.eq(setup.present),
            walk.ready.eq(setup.ready),
            walk.weights_ready.eq(weights.ready),
            walk.weights_fault.eq(weights.fault),
            walk.weights_current.eq(weights.current),
            walk.stop.eq(stop),
            weights.present.eq(setup.present),
            weights.base.eq(setup.upcoming.wgt_base),
            weights.start.eq(walk.start),
            weights.start_last.eq(walk.start_last),
            weights.drop.eq(walk.drop),
            self.ifm.addr.eq(walk.ifm_addr),
            self.wgt.addr.eq(weights.addr),
        ]

        # What the first lane has registered goes to all others at once if registers are few.
        lanes = [
            Lane(config=config, index=k, family=self.family, chained=k == 0 or not self.lean)
            for k in range(config.K)
        ]
        chain = ("weight", "pixel", "read", "write")
        # The vector unit reads all lanes at once, wherever they lie.
        drain_addr = _delay(m, self.acc.addr, 1, name="drain_addr")
        assert DRAIN_LATENCY == 1 + Accumulator.SUM_CYCLE
        for k, lane in enumerate(lanes):
            m.submodules[f"lane{k}"] = lane
            if k:
                m.d.comb += [
                    getattr(lane, f"{name}_in").eq(
                        getattr(lanes[0 if self.lean else k - 1], f"{name}_out")
                    )
                    for name in chain
                ]
            m.d.comb += [
                lane.drain.addr.eq(drain_addr),
                self.acc.data.word_select(k, ACCUMULATOR_BITS).eq(lane.drain.data),
            ]

        # Issue 1 drives the addresses, issue 2 the slot; data arrives READ_LATENCY after issue 1,
        # at the door of lane 0, whose register is the last step of FETCH.
        issue = PixelWalk.LATENCY
        fetch = issue - 1 + READ_LATENCY
        fetch_weight = 1 + READ_LATENCY
        assert timing.FETCH == fetch + 1 and timing.MULTIPLY == Multiplier.LATENCY
        first = lanes[0]
        m.d.comb += [
            first.weight_in.valid.eq(
                _delay(m, weights.valid, fetch_weight, name="weight_valid", reset_less=False)
            ),
            first.weight_in.index.eq(_delay(m, weights.index, fetch_weight, name="weight_index")),
            first.weight_in.data.eq(self.wgt.data),
        ]
        slot = walk.slot
        inside = _delay(m, slot.inside, fetch - issue, name="inside")
        pad_code = _delay(m, slot.pad_code, fetch - issue, name="pad_code")
        m.d.comb += first.pixel_in.swap.eq(_delay(m, slot.swap, fetch - issue, name="swap"))
        for i in range(config.R):
            m.d.comb += first.pixel_in.data[i].eq(
                Mux(inside, self.ifm.data.word_select(i, 8).as_signed(), pad_code)
            )
        busy = _delay(m, slot.valid, fetch - issue + 1, name="busy", reset_less=False)
        m.d.comb += self.busy_pixel.eq(busy)

        # Accumulator control enters the chain when the sums of its pixel do.
        access = Signal(access_layout(config.acc_depth))
        m.d.comb += [
            access.addr.eq(slot.addr),
            access.bank.eq(slot.bank),
            access.enable.eq(slot.valid & slot.read),
        ]
        read = _delay(m, access, fetch - issue + first.READ_CYCLE, name="read", reset_less=False)
        write_early = Signal(access_layout(config.acc_depth))
        write_valid = _delay(
            m,
            slot.valid,
            fetch - issue + first.READ_CYCLE,
            name="write_valid",
            reset_less=False,
        )
        m.d.comb += [write_early.eq(read), write_early.enable.eq(write_valid)]
        write = _delay(m, write_early, Accumulator.WRITE_CYCLE, name="write", reset_less=False)
        m.d.comb += [first.read_in.eq(read), first.write_in.eq(write)]

        # The end of an instruction, when the last lane's sum can be read.
        end = timing.drain - issue
        last = _delay(m, slot.last, end, name="last", reset_less=False)
        failed = _delay(m, slot.last & slot.error, end, name="failed", reset_less=False)
        m.d.comb += [
            done.eq(last),
            error.eq(failed),
            self.unit.done.eq(done),
            self.unit.error.eq(Mux(error, isa.Error.BUFFER, isa.Error.NONE)),
        ]
        assert end == fetch - issue + first.WRITE_CYCLE + config.K + 1
        return m
