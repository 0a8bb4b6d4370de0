"""Names of the families of chips."""

__all__ = ["FAMILIES", "check_family", "is_lean"]

#: ``generic`` is what every synthesis tool and every simulator understands.
FAMILIES = ("generic", "ecp5", "ice40", "gowin", "nexus", "xc7", "xcup")
#: Families with fewer flip-flops than tables.
_LEAN = ("gowin",)


def is_lean(family: str) -> bool:
    """Return whether what waits shall be in memories rather than in flip-flops."""
    return check_family(family) in _LEAN


def check_family(family: str) -> str:
    """Return ``family``; ValueError if it is none of FAMILIES."""
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
    return family
