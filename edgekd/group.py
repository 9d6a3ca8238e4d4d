"""The commands together: listed in the order of their use, and ended quietly where nobody reads on."""

from __future__ import annotations

import os
import sys
from typing import Any

from typer.core import TyperGroup

UNREAD = 128 + 13  # what a shell shows of a program that SIGPIPE ended; Python is told by an exception


class Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def main(self, *given: Any, **options: Any) -> Any:
        """As typer's, but for `edgekd ... | head -1`: exit code 141 and no word."""
        try:
            return super().main(*given, **options)
        except SystemExit as end:
            unread = isinstance(end.__context__, BrokenPipeError)  # rich and typer make an exit of 1 of it
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
                unread = unread or not end.code
            if unread:
                raise SystemExit(UNREAD) from None
            raise
