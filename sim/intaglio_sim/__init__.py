"""Executors and test benches: golden machine, cycle model, RTL simulation, comparison."""
