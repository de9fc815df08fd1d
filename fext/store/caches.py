"""Where libraries keep what they want to find again: below FeXT's folder, and not in the user's home.

A home may be shared, full, read-only or not there at all, and what is written into it nobody asked for.
"""

import getpass
import os
from pathlib import Path

# What each library looks at; a place that the user has named stays.
_FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "",  # fontconfig, which matplotlib asks for fonts, and whatever follows that convention
    "CUDA_CACHE_PATH": "cuda",
    "TRITON_HOME": "triton",
}


def keep_caches(folder: Path) -> None:
    """Let libraries, in this process and its children, keep their caches in a folder, which they make if they need it.

    Weights that torchvision has in its own cache are found there. Must come before the libraries are imported.
    """
    torch_home = _torch_home()
    os.environ.setdefault("TORCH_HOME", str(torch_home if torch_home is not None else folder / "torch"))
    for variable, name in _FOLDERS.items():
        os.environ.setdefault(variable, str(folder / name))
    try:
        getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):  # a container's user without an entry in the system's list
        os.environ["LOGNAME"] = "nobody"


def _torch_home() -> Path | None:
    """The folder in which torch keeps weights, where there are any."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    folder = caches / "torch"
    return folder if os.path.isdir(folder / "hub" / "checkpoints") else None
