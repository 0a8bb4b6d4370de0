"""The Radiona ULX3S as a board of its own: its ports, and its pins for nextpnr."""

from intaglio_hw.boards.top import BoardPorts, pins

__all__ = ["ULX3S", "constraints"]

#: The button is F1. With wifi_gpio0 high, the ESP32 of the board does not take over.
ULX3S = BoardPorts(
    platform="ulx3s:ULX3S_85F_Platform",
    family="ecp5",
    oscillator=("clk25", 25.0),
    button="button_fire",
    leds=3,
    high={"wifi_gpio0": ("esp32", "gpio0")},
)


def constraints() -> str:
    """Return pins, buffers and the oscillator's frequency for nextpnr, in Lattice's LPF."""
    lines = [f'FREQUENCY PORT "oscillator" {ULX3S.oscillator[1]:g} MHZ;']
    for pin in pins(ULX3S):
        lines.append(f'LOCATE COMP "{pin.bit}" SITE "{pin.site}";')
        settings = " ".join(f"{key}={value}" for key, value in pin.attributes)
        lines.append(f'IOBUF PORT "{pin.bit}" {settings};')
    return "\n".join(lines) + "\n"
