"""Numbers of the memory behind the accelerator that compiler, cycle model and RTL share."""

__all__ = ["MEMORY_LATENCY", "OUTSTANDING"]

#: Cycles from a request to its first beat of the memory that is assumed when none is named.
MEMORY_LATENCY = 20
#: Bursts on their way: of load, of store, and of both readers behind the arbiter.
OUTSTANDING = 8
