"""A port between sequencer and unit with the register that lean ones leave to each other."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio_hw.interfaces import UnitSignature

__all__ = ["with_register"]


class _WithRegister(wiring.Component):
    """``component`` with ports as if it were not lean; ``ports``: name -> instruction."""

    def __init__(self, component: wiring.Component, ports: dict[str, isa.Instruction]) -> None:
        self.component, self.ports = component, ports
        members = dict(component.signature.members)
        for name, instruction in ports.items():
            flow = Out if members[name].flow == wiring.Out else In
            members[name] = flow(UnitSignature(instruction))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.component = component = self.component
        held = {}
        for name in self.ports:
            inner = getattr(component, name)
            if component.signature.members[name].flow == wiring.Out:  # a unit: it follows
                offered = getattr(self, name).instruction.payload
                held[name] = Signal.like(offered, name=f"{name}_held")
                with m.If(inner.follow):
                    m.d.sync += held[name].eq(offered)
            else:  # the sequencer: its register always follows, ahead of what it offers
                m.d.comb += inner.follow.eq(1)
        for path, member, value in self.signature.flatten(self):
            inner = component
            for step in path:
                inner = inner[step] if isinstance(step, int) else getattr(inner, step)
            if member.flow == In:
                held_value = held.get(path[0]) if path[-1] == "payload" else None
                m.d.comb += inner.eq(value if held_value is None else held_value)
            else:
                m.d.comb += value.eq(inner)
        return m


def with_register(component: wiring.Component, **ports: isa.Instruction) -> wiring.Component:
    """Return a lean ``component`` with the ports of one that is not.

    The port of a unit gets the register that the sequencer has for it; one of the sequencer the
    enable that the unit would give.
    """
    return _WithRegister(component, ports)
