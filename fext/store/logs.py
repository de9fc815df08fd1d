"""The log file: tracebacks of unexpected errors, so that the screen can stay at one line."""

import datetime
import traceback
from pathlib import Path

import fext

LOG_FILE = "fext.log"


def log_unexpected(folder: Path, error: BaseException, doing: str) -> Path | None:
    """Append the traceback of an error and return the path of the log; None where it cannot be written."""
    path = folder / LOG_FILE
    moment = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    text = "".join(traceback.format_exception(error))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{moment} FeXT {fext.__version__}, {doing}\n{text}\n")
    except OSError:
        return None  # a log that cannot be written must not hide the error itself
    return path
