"""The 1BitSquared iCEBreaker as a board of its own: its ports, and its pins for nextpnr."""

from intaglio_hw.boards.top import BoardPorts, pins

__all__ = ["ICEBREAKER", "constraints"]

#: The oscillator's pin is that of the PLL. The serial line is the second port of the FT2232H; the
#: first one loads the flash.
ICEBREAKER = BoardPorts(
    platform="icebreaker:ICEBreakerPlatform",
    family="ice40",
    oscillator=("clk12", 12.0),
    button="button",
    leds=2,
    active_low=frozenset({"button", "led"}),
    single_port=True,
)


def constraints() -> str:
    """Return pins and the oscillator's frequency for nextpnr, in a PCF."""
    lines = [f"set_frequency oscillator {ICEBREAKER.oscillator[1]:g}"]
    for pin in pins(ICEBREAKER):
        pull_up = "-pullup yes " if dict(pin.attributes).get("PULLUP") == "1" else ""
        lines.append(f"set_io {pull_up}{pin.bit} {pin.site}")
    return "\n".join(lines) + "\n"
