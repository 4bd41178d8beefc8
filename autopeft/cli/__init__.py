"""The command line: data on stdout, progress and hints on stderr, an exit code for each outcome."""

from autopeft.cli.main import main

__all__ = ["main"]
