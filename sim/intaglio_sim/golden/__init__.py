"""The golden machine and what stands beside it: race checker, cycle model, timelines."""

from intaglio_sim.golden.checker import Report, check_program
from intaglio_sim.golden.machine import Event, GoldenMachine, Result

__all__ = ["Event", "GoldenMachine", "Report", "Result", "check_program"]
