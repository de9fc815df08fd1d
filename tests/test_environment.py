"""What is around the program: no connection, no home, nothing written elsewhere, streams that are closed or full."""

import importlib.util
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, environment, make_home

# Every job in turn, in one process: torch takes seconds to load.
JOBS = """
import json, sys
from pathlib import Path
from fext.jobs.tensorboard import TensorBoardServer
from fext.screen.program import main

home = Path(sys.argv[1])
for words in json.loads(sys.argv[2]):
    if main(home, words):
        sys.exit(f"{words} has failed")
TensorBoardServer(home / "training" / "checkpoints").close()
"""
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


def audited(home: Path, elsewhere: Path, jobs: list[list[str]]) -> list[tuple[str, str]]:
    """What a process that does these jobs does itself and has its children do: (writes or connects, where)."""
    log = elsewhere / "audit.log"
    folders = {name: str(elsewhere / name) for name in ("home", "temporary", "current")}
    for folder in folders.values():
        Path(folder).mkdir()
    kept = {name: value for name, value in environment().items() if not name.startswith(("XDG_", "MPL", "TORCH", "CI"))}
    variables = {
        "HOME": folders["home"], "USERPROFILE": folders["home"], "LOCALAPPDATA": folders["home"],
        "TMPDIR": folders["temporary"], "TMP": folders["temporary"], "TEMP": folders["temporary"],
        "AUDIT_LOG": str(log), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "audit"), str(REPOSITORY)]),
    }  # fmt: skip
    finished = subprocess.run(
        [sys.executable, "-c", JOBS, str(home), json.dumps(jobs)],
        env=kept | variables,
        cwd=folders["current"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout.decode() + finished.stderr.decode()
    assert [*Path(folders["home"]).iterdir(), *Path(folders["current"]).iterdir()] == []  # by native code, too
    return [tuple(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]


def is_of_this_machine(address: str) -> bool:
    """Whether an address of a socket is the loopback's, or a file."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost" or Path(address).is_absolute()


def test_no_job_connects_to_anything_or_writes_outside_its_folder_and_the_temporary_one(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "fext", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    small = {"architecture": "cifar", "picture_shape": (32, 32, 3), "use_tensorboard": True, "inference_engine": "auto"}
    make_home(home, num_images=16, **small, generate_model_graph=True)
    images = str(home / "data" / "images")
    labels = home / "labels.csv"
    names = sorted(os.listdir(images))
    labels.write_text("image,label\n" + "".join(f"{name},{'ab'[place % 2]}\n" for place, name in enumerate(names)))
    engines = ["torch", "openvino"] if HAS_OPENVINO else ["torch"]
    jobs = [
        ["analyze"],
        ["pretrain", "--name", "model"],
        ["evaluate", "model"],
        *(["extract", "--name", engine, "--set", f"inference_engine={engine}"] for engine in engines),
        ["verify", "torch"],
        ["explore", "view", "torch"],
        ["explore", "similar", "torch", "--picture", names[0]],
        ["explore", "duplicates", "torch"],
        ["explore", "clusters", "torch", "--count", "2"],
        ["explore", "map", "torch"],
        ["explore", "anomalies", "model", "--images", images],
        ["explore", "classify", "torch", "--labels", str(labels), "--name", "labels"],
        ["explore", "predict", "labels", "--images", images],
        ["reconstruct", "model", "--images", images, "--output", str(home / "reconstructed")],
        ["export", "model", "--format", "onnx", "--output", str(home / "model.onnx")],
        ["catalogue"],
        ["settings"],
    ]
    done = audited(home, elsewhere, jobs)
    assert [where for what, where in done if what == "connects" and not is_of_this_machine(where)] == []
    allowed = tuple(os.path.realpath(folder) for folder in (home, elsewhere / "temporary", os.devnull, "/proc"))
    written = [where for what, where in done if what == "writes"]
    assert [where for where in written if not where.startswith(allowed)] == []
    assert any("features.csv" in where for where in written)  # the hook has seen what is done
    assert any(what == "connects" for what, _ in done)
