"""The vector unit: drains accumulators, pools, resizes, adds, takes the arg max; requantises."""

from intaglio_hw.vector.unit import VectorUnit

__all__ = ["VectorUnit"]
