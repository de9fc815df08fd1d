"""The OpenVINO package, which by itself tells its maker over the network what it is used for."""

import sys
from typing import Any


def silence_openvino() -> None:
    """Let OpenVINO, once it is imported, neither connect to anything nor write into the user's home.

    Its own ways to opt out are a file in the home folder and a variable that pretends to be a build server. Where the
    package that reports cannot be imported, OpenVINO has a class that does nothing in its place.
    """
    modules: dict[str, Any] = sys.modules
    modules["openvino_telemetry"] = None


def import_openvino() -> Any:
    """The package, silenced; raises ImportError where it is not installed."""
    silence_openvino()
    import openvino

    return openvino
