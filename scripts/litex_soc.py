"""A LiteX SoC with the accelerator and LiteDRAM, as Verilog; scripts/litex runs this file.

    litex_soc.py --accelerator accelerator.v --bus 64 --folder DIR

Needs litex and litedram 2024.12. There is no processor: an AXI4-Lite port ``host`` takes its place
on the SoC's bus. Behind that stand the accelerator's registers at ACCELERATOR, and the SDRAM at
MAIN_RAM, which the accelerator reaches through a port of its own. A processor is added with
``cpu_type``; then the memory is reached as here, through ``add_sdram``.

The SDRAM is LiteDRAM's model of a chip behind its own controller, for simulation. On a board the
PHY is the board's, and ``get_port(data_width=...)`` converts the width.
"""

import argparse
import os

from litedram.frontend.axi import LiteDRAMAXI2Native
from litedram.modules import MT48LC4M16
from litedram.phy.model import SDRAMPHYModel
from litex.build.generic_platform import Pins
from litex.build.io import CRG
from litex.build.sim import SimPlatform
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCCore
from litex.soc.interconnect import axi
from migen import ClockSignal, Instance, ResetSignal

CLOCK_HZ = 50_000_000
ACCELERATOR, MAIN_RAM = 0x3000_0000, 0x4000_0000


def axi_ports(bus: axi.AXIInterface) -> dict:
    """Return the accelerator's AXI4 manager, connected to ``bus``."""
    ports = {}
    for name in ("aw", "ar"):
        channel = getattr(bus, name)
        for field in ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos"):
            ports[f"o_m_axi_{name}{field}"] = getattr(channel, field)
    for field in ("data", "strb"):
        ports[f"o_m_axi_w{field}"] = getattr(bus.w, field)
    ports["o_m_axi_wlast"] = bus.w.last
    for field in ("id", "resp"):
        ports[f"i_m_axi_b{field}"] = getattr(bus.b, field)
    for field in ("id", "data", "resp"):
        ports[f"i_m_axi_r{field}"] = getattr(bus.r, field)
    ports["i_m_axi_rlast"] = bus.r.last
    for name, driven, taken in (("aw", "o", "i"), ("ar", "o", "i"), ("w", "o", "i"),
                                ("b", "i", "o"), ("r", "i", "o")):  # fmt: skip
        channel = getattr(bus, name)
        ports[f"{driven}_m_axi_{name}valid"] = channel.valid
        ports[f"{taken}_m_axi_{name}ready"] = channel.ready
    return ports


def axi_lite_ports(bus: axi.AXILiteInterface) -> dict:
    """Return the accelerator's AXI4-Lite subordinate, connected to ``bus``."""
    ports = {"i_s_axil_awprot": 0, "i_s_axil_arprot": 0}
    fields = {"aw": ("addr",), "w": ("data", "strb"), "b": ("resp",), "ar": ("addr",),
              "r": ("data", "resp")}  # fmt: skip
    for name, names in fields.items():
        channel = getattr(bus, name)
        driven, taken = ("o", "i") if name in "br" else ("i", "o")
        for field in names:
            signal = getattr(channel, field)
            ports[f"{driven}_s_axil_{name}{field}"] = signal[:12] if field == "addr" else signal
        ports[f"{driven}_s_axil_{name}valid"] = channel.valid
        ports[f"{taken}_s_axil_{name}ready"] = channel.ready
    return ports


class IntaglioSoC(SoCCore):
    """The SoC; ``bus_bits`` is the width of the accelerator's memory bus."""

    def __init__(self, platform, *, bus_bits: int) -> None:
        self.crg = CRG(platform.request("sys_clk"), platform.request("sys_rst"))
        super().__init__(
            platform,
            CLOCK_HZ,
            cpu_type=None,
            bus_standard="axi-lite",
            integrated_rom_size=0,
            integrated_sram_size=0,
            with_uart=False,
            with_timer=False,
            ident="Intaglio",
        )
        # The host, where a processor would be.
        host = axi.AXILiteInterface(data_width=32, address_width=32)
        platform.add_extension(host.get_ios("host"))
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")
        self.bus.add_master("host", host)

        # The memory. Its L2 cache would stand between the SoC's bus and the memory, and not know
        # what the accelerator writes: there is none.
        module = MT48LC4M16(CLOCK_HZ, "1:1")
        self.sdrphy = SDRAMPHYModel(module, data_width=bus_bits, clk_freq=CLOCK_HZ)
        self.add_sdram("sdram", phy=self.sdrphy, module=module, origin=MAIN_RAM, l2_cache_size=0)

        # The accelerator: registers on the SoC's bus, a port of its own into the memory.
        memory = axi.AXIInterface(data_width=bus_bits, address_width=32, id_width=1)
        port = self.sdram.crossbar.get_port(mode="both", data_width=bus_bits)
        self.memory_bridge = LiteDRAMAXI2Native(memory, port, base_address=MAIN_RAM)
        registers = axi.AXILiteInterface(data_width=32, address_width=32)
        region = SoCRegion(origin=ACCELERATOR, size=0x1000, cached=False)
        self.bus.add_slave("accelerator", registers, region)
        self.specials += Instance(
            "accelerator",
            i_clk=ClockSignal("sys"),
            i_rst=ResetSignal("sys"),
            o_interrupt=platform.request("interrupt"),
            **axi_ports(memory),
            **axi_lite_ports(registers),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accelerator", required=True, help="Verilog of the accelerator")
    parser.add_argument("--bus", type=int, required=True, help="bits of its memory bus")
    parser.add_argument("--folder", required=True, help="where soc.v goes")
    arguments = parser.parse_args()
    io = [(name, 0, Pins(1)) for name in ("sys_clk", "sys_rst", "interrupt")]
    platform = SimPlatform("SIM", io, toolchain="verilator")
    platform.add_source(os.path.abspath(arguments.accelerator))
    soc = IntaglioSoC(platform, bus_bits=arguments.bus)
    soc.finalize()
    os.makedirs(arguments.folder, exist_ok=True)
    # Memories with contents are read from files beside the Verilog.
    here = os.getcwd()
    os.chdir(arguments.folder)
    platform.get_verilog(soc, name="soc").write("soc.v")
    os.chdir(here)


if __name__ == "__main__":
    main()
