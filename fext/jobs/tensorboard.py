"""TensorBoard as a child process on this machine's loopback address."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from fext.errors import FextError

_SECONDS_TO_START = 60.0


class TensorBoardServer:
    """A running TensorBoard on a folder of runs, or on one that has a projector; `close` ends it."""

    def __init__(self, folder: Path) -> None:
        port = _free_port()
        self.address = f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise

    def is_running(self) -> bool:
        """Whether the child has not ended yet, by itself or by `close`."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the child and wait until it is gone."""
        if self.is_running():
            self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_START
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is not for this machine itself
        while time.monotonic() < deadline:
            if not self.is_running():
                raise FextError("TensorBoard ended at once: see whether 'python -m tensorboard.main --help' works")
            try:
                opener.open(self.address, timeout=2).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise FextError(f"TensorBoard did not answer on {self.address} within {_SECONDS_TO_START:.0f} seconds")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
