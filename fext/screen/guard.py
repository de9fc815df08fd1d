"""How every action ends badly, in one place: a line for the user, a log for what nobody expected."""

import mmap
import sys
from collections.abc import Callable

from fext.errors import OUT_OF_MEMORY, FextError, is_out_of_memory
from fext.screen.actions import Screen
from fext.screen.console import show_error

DONE, FAILED, INTERRUPTED = 0, 1, 130
_LEAST_ROOM = 2**30


class LeftQuestion(Exception):
    """The user left a question: there is nothing more to do, and nothing is wrong."""


def guarded(screen: Screen, doing: str, action: Callable[[], None]) -> int:
    """Run an action; whatever it raises becomes one line and an exit code."""
    try:
        return _shown(screen, doing, action)
    finally:
        if "torch" in sys.modules:
            from fext.compute.memory import give_back

            give_back()  # what an error held is free only now


def _make_sure_of_room() -> None:
    """Raise MemoryError where a process may not have the addresses that torch and what it brings take.

    Under such a limit (`ulimit -v`) linear algebra libraries wait for ever while they are loaded, or crash.
    """
    if hasattr(mmap, "PROT_READ") and "torch" not in sys.modules:
        try:
            mmap.mmap(-1, _LEAST_ROOM, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ).close()
        except OSError as error:
            raise MemoryError from error


def _shown(screen: Screen, doing: str, action: Callable[[], None]) -> int:
    try:
        _make_sure_of_room()
        action()
    except LeftQuestion:
        return DONE
    except FextError as error:
        show_error(screen.console, str(error))
        return FAILED
    except KeyboardInterrupt:
        screen.console.print("Stopped. Whatever was finished before is kept.")
        return INTERRUPTED
    except Exception as error:  # the edge of the program: nothing may end the menu with a traceback
        if is_out_of_memory(error):
            show_error(screen.console, OUT_OF_MEMORY)
            return FAILED
        from fext.store.logs import log_unexpected

        path = log_unexpected(screen.workspace.logs, error, doing)
        details = f"details are in {path}" if path else f"the log cannot be written: {error}"
        show_error(screen.console, f"Something unexpected went wrong ({type(error).__name__}); {details}")
        return FAILED
    return DONE
