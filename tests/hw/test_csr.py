"""The registers in both simulators."""

import pytest

from intaglio.spec import regs
from intaglio.spec.config import CONFIGS
from intaglio_hw.csr import CsrBank, axi_lite_members, events_layout
from intaglio_sim.runner import run_bench


@pytest.mark.rtl
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_csr(simulator):
    config = CONFIGS["narrow-8x4"]
    result = run_bench(
        CsrBank(config=config), bench="bench_csr", simulator=simulator, config=config
    )
    assert len(result.tests) == 17


def test_every_counter_has_an_event():
    assert list(events_layout().members) == [name for name, _ in regs.COUNTERS]


def test_every_register_has_a_port_or_a_value():
    members = CsrBank(config=CONFIGS["mini-8x8"]).signature.members
    for register in regs.REGISTERS:
        if register.access == "rw" and register.name != "interrupt_enable":
            assert members[register.name].shape == 32
    assert {f"s_axil_{name}" for name in ("awaddr", "wdata", "bresp", "araddr", "rdata")} <= set(
        axi_lite_members("s_axil")
    )
