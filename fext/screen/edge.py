"""The way into the program where there may not even be memory for the program."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fext.errors import OUT_OF_MEMORY, is_out_of_memory


def run(root: Path, words: Sequence[str]) -> int:
    """Open the menu, or run the command that `words` spell; returns the exit code, 1 where memory does not suffice."""
    try:
        from fext.screen.program import main
        from fext.screen.streams import with_utf8_names

        with_utf8_names()
        return main(root, words)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"{OUT_OF_MEMORY}\n")
        return 1
