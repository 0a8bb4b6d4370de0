"""The one exception that a user is meant to see."""

__all__ = ["IntaglioError"]


class IntaglioError(Exception):
    """Bad input or an unsupported request, told in one line.

    The text names the file (or layer, or option), the value that was found and the bound or the
    choices. The command line prints it as ``intaglio: error: TEXT`` and exits with status 1; no
    traceback.
    """
