"""Names of the families of chips."""

__all__ = ["FAMILIES", "check_family"]

#: ``generic`` is what every synthesis tool and every simulator understands.
FAMILIES = ("generic", "ecp5", "ice40", "gowin", "nexus", "xc7", "xcup")


def check_family(family: str) -> str:
    """Return ``family``; ValueError if it is none of FAMILIES."""
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
    return family
