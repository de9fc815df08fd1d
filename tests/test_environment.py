"""What is around the program: no connection, no home, nothing written elsewhere, streams that are closed or full."""

import ast
import importlib.util
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, make_home, write_images

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
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="shells and devices of POSIX")
FULL_PIPE = "Standard output cannot be written (Broken pipe): a part of it is lost"
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


def in_shell(home: Path, words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of a shell in which FEXT is the program."""
    program = f'"{sys.executable}" "{home / "featext.py"}"'
    command = ["sh", "-c", words.replace("FEXT", program)]
    return subprocess.run(
        command, env=environment() | variables, capture_output=True, text=True, encoding="utf-8", check=False
    )


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
    anywhere = ["--set", "use_mixed_precision=False"]  # not every processor computes in bfloat16 with every engine
    jobs = [
        ["analyze"],
        ["pretrain", "--name", "model"],
        ["evaluate", "model"],
        *(["extract", "--name", engine, "--set", f"inference_engine={engine}", *anywhere] for engine in engines),
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


@POSIX
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("samples >/dev/full", "No space left on device"),
        ("--help >/dev/full", "No space left on device"),
        ("--help >&-", "it is closed"),
        ("--help <&- >&-", "it is closed"),
    ],
)
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1(words: str, reason: str, home: Path) -> None:
    if "full" in words and not Path("/dev/full").exists():
        pytest.skip("no such device here")
    result = in_shell(home, f"FEXT {words}")
    assert result.returncode == 1
    assert result.stderr == f"Standard output cannot be written ({reason}): a part of it is lost\n"
    if words.startswith("samples"):  # what was to be made is made
        assert (home / "data" / "samples" / "SOURCES.md").is_file()


@POSIX
def test_a_reader_that_goes_away_is_one_line(home: Path) -> None:
    result = in_shell(home, "(FEXT --help; echo $? >&2) | true")
    assert result.stderr.splitlines() in ([FULL_PIPE, "1"], ["0"])  # the second where it was quicker than the reader


@POSIX
def test_closed_streams_are_no_traceback(home: Path) -> None:
    assert in_shell(home, "FEXT <&-").returncode == 2
    assert in_shell(home, "FEXT settings --set wrong=1 <&- >&- 2>&-").returncode == 1
    nothing = in_shell(home, "FEXT --help <&- >/dev/full 2>/dev/full")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (1, "", "")


@POSIX
def test_names_are_utf_8_whatever_the_locale_says_they_are(tmp_path: Path) -> None:
    """Python takes a Latin-1 locale at its word; but tables are for machines with other locales, too."""
    variables = {**latin_1_locale(tmp_path / "locales"), "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"}
    images = tmp_path / "images"
    write_images(images, 1)
    (images / "image_000.png").rename(images / "fôto 日本.png")
    script = tmp_path / "names.py"
    script.write_text(
        "import sys\nfrom fext.screen.streams import with_utf8_names\n"
        "with_utf8_names()\n"  # as featext.py does it first
        "from pathlib import Path\nfrom fext.data.source import find_images\n"
        "print(find_images(Path(sys.argv[1])).names[0].encode())\n"
        "print('h\u00f4tel \u65e5')\n",
        encoding="utf-8",
    )
    finished = subprocess.run(
        [sys.executable, str(script), str(images)], env=environment() | variables, capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    name, shown = finished.stdout.splitlines()
    assert ast.literal_eval(name.decode()).decode() == "fôto 日本.png"
    assert shown == "hôtel ".encode("latin-1") + rb"\u65e5"  # in the terminal's own encoding


def latin_1_locale(folder: Path) -> dict[str, str]:
    """A locale of Latin-1, made for the test; skips where that cannot be done."""
    folder.mkdir()
    try:
        made = subprocess.run(
            ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")], capture_output=True
        )
    except OSError:
        pytest.skip("localedef is not there")
    if made.returncode:
        pytest.skip("localedef cannot make it here")
    return {"LOCPATH": str(folder)}


@POSIX
def test_libraries_start_for_a_user_without_a_home_and_without_a_name(home: Path) -> None:
    """As in a container that is started with a number for a user."""
    script = """
import os, pwd, sys
from pathlib import Path

def nobody(number):
    raise KeyError(number)

pwd.getpwuid = nobody
from fext.screen.program import main
assert main(Path(sys.argv[1]), ["settings"]) == 0
import matplotlib.font_manager, getpass, torch
from fext.compute.openvino_package import import_openvino
if sys.argv[2] == "True":
    import_openvino()
getpass.getuser()
assert torch.hub.get_dir().startswith(sys.argv[1])
"""
    gone = {"HOME", "USER", "LOGNAME", "USERNAME", "TORCH_HOME", "XDG_CACHE_HOME"}
    kept = {name: value for name, value in environment().items() if name not in gone}
    command = [sys.executable, "-c", script, str(home), str(HAS_OPENVINO)]
    finished = subprocess.run(command, env=kept, cwd=home, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert not (home / "~").exists()
