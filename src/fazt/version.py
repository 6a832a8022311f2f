"""The version of this package, where every room may read it without loading anything else."""

__version__ = "0.1.0"
