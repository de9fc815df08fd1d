"""The program's edge: the menu without arguments, one command with them; exit codes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fext.screen.actions import Screen
from fext.screen.commands import make_parser
from fext.screen.console import make_console
from fext.screen.guard import guarded
from fext.screen.interrupts import stop_on_termination
from fext.store.workspace import Workspace

_WRONG_USE = 2


def main(root: Path, words: Sequence[str]) -> int:
    """Open the menu, or run the command that `words` spell; returns the exit code (0 done, 1 failed, 2 wrong use)."""
    stop_on_termination()
    screen = Screen(make_console(), Workspace(root), is_first=os.environ.get("RANK", "0") == "0")
    parser = make_parser()
    if words:
        parsed = parser.parse_args(words)
        return guarded(screen, f"command {parsed.command}", lambda: parsed.run(screen, parsed))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.print_help()
        return _WRONG_USE
    from fext.screen.menu import Menu

    Menu(screen).run()
    return 0
