"""Python imports this at its start where the folder is on its path: a hook that no library can take away again.

It writes what a process, and each Python that it starts, does to the file AUDIT_LOG, one line of JSON for each event.
"""

import json
import os
import sys
from typing import Any

LOG = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "sqlite3.connect"}
CONNECTIONS = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.get", "ftplib.", "smtplib.")


def watch(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        path, mode, flags = args
        is_writing = flags & WRITING if isinstance(flags, int) else any(letter in (mode or "r") for letter in "wax+")
        if is_writing and not isinstance(path, int):
            tell("writes", os.path.realpath(path))
    elif event in CHANGES:
        # Paths below an open folder are those of shutil.rmtree, which was seen to open it.
        if not any(isinstance(folder, int) and folder >= 0 for folder in args[-2:] if folder is not args[0]):
            for path in args:
                if isinstance(path, (str, bytes, os.PathLike)) and path != ":memory:":
                    tell("writes", os.path.realpath(path))
    elif event.startswith(CONNECTIONS) and event != "socket.gethostname":
        where = args[1] if event.startswith(("socket.connect", "socket.bind", "socket.send")) else args[0]
        tell("connects", where[0] if isinstance(where, tuple) else where)


def tell(what: str, where: object) -> None:
    text = os.fsdecode(where) if isinstance(where, (bytes, os.PathLike)) else str(where)
    os.write(LOG, (json.dumps([what, text]) + "\n").encode())


sys.addaudithook(watch)
