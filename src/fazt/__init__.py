"""Safe outbound HTTP for code you don't fully trust, and for your own Python."""

from fazt.errors import Code, FaztError, Reason

__version__ = "0.1.0"

__all__ = ["Code", "FaztError", "Reason", "__version__"]
