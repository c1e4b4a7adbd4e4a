"""The command line: names → functions, no logic."""

from rheostat.cli.app import main

__all__ = ["main"]
