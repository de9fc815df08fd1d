"""The program's edge: the menu without arguments, one command with them; exit codes."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from fext.screen.actions import Screen
from fext.screen.commands import make_parser
from fext.screen.console import make_console, show_error
from fext.screen.guard import FAILED, guarded
from fext.screen.interrupts import stop_on_termination
from fext.screen.streams import Output, fill_missing_streams, is_terminal
from fext.store.caches import keep_caches
from fext.store.workspace import Workspace

_WRONG_USE = 2


def main(root: Path, words: Sequence[str]) -> int:
    """Open the menu, or run the command that `words` spell; returns the exit code (0 done, 1 failed, 2 wrong use)."""
    fill_missing_streams()
    stop_on_termination()
    workspace = Workspace(root)
    keep_caches(workspace.caches)
    output = Output(sys.stdout)
    screen = Screen(make_console(output), workspace, is_first=os.environ.get("RANK", "0") == "0")
    code = _run(screen, output, words)
    return code if output.finish() else code or FAILED


def _run(screen: Screen, output: Output, words: Sequence[str]) -> int:
    parser = make_parser()
    with redirect_stdout(output):
        try:
            parsed = parser.parse_args(words)
        except SystemExit as end:  # words that are wrong, or --help
            return int(end.code or 0)
        if words:
            return guarded(screen, f"command {parsed.command}", lambda: parsed.run(screen, parsed))
        if not (is_terminal(sys.stdin) and output.isatty()):
            parser.print_help()
            show_error(screen.console, "The menu needs a terminal: start it in one, or name one of the commands above")
            return _WRONG_USE
    from fext.screen.menu import Menu

    Menu(screen).run()
    return 0
