"""The screen: commands with exit codes, and the menu in a real terminal."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, write_images
from rich.console import Console

from fext.screen.actions import Screen
from fext.screen.console import ConsoleReporter
from fext.screen.guard import FAILED, guarded
from fext.settings import Settings, configurations_text
from fext.store.workspace import Workspace

SMALL = {
    "num_threads": 1,
    "architecture": "redux",
    "picture_shape": (64, 64, 3),
    "epochs": 1,
    "batch_size": 4,
    "num_train_samples": 8,
    "num_test_samples": 4,
    "feature_grid": 2,
    "use_tensorboard": False,
    "generate_model_graph": False,
}


def write_configurations(folder: Path, **changes: object) -> None:
    """configurations.py with other values, as a user's editor would leave it."""
    text = configurations_text()
    for name, value in (SMALL | changes).items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        assert count == 1
    (folder / "configurations.py").write_text(text, encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with featext.py and configurations.py, as a user has them, and a dozen images."""
    shutil.copy(REPOSITORY / "featext.py", tmp_path)
    write_configurations(tmp_path)
    write_images(tmp_path / "data" / "images", 12)
    return tmp_path


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100"}


def run(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command without a terminal."""
    return subprocess.run(
        [sys.executable, str(home / "featext.py"), *words],
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


# --- commands


def test_the_whole_way_by_commands(home: Path) -> None:
    trained = run(home, "pretrain", "--name", "first")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "epoch 1/1: test" in trained.stdout
    assert "training/checkpoints/first" in trained.stdout.replace("\\", "/")
    assert "2 epochs" not in trained.stdout
    longer = run(home, "resume", "--epochs", "2")
    assert longer.returncode == 0
    assert "epoch 2/2" in longer.stdout
    extracted = run(home, "extract", "--set", "feature_grid=1", "--name", "table")
    assert extracted.returncode == 0
    header = (home / "inference" / "table" / "features.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.count("feature_") == 512


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pretrain", "--set", "epochs=many"), "--set: epochs = 'many' is not allowed; allowed: a whole number"),
        (("pretrain", "--set", "epoch=2"), "there is no setting epoch; did you mean epochs?"),
        (("pretrain", "--images", "nowhere"), "nowhere does not exist"),
        (("evaluate",), "there is no checkpoint"),
        (("extract", "nothing"), "there is no checkpoint nothing"),
        (("pretrain", "--name", "a/b"), "cannot be a name"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_1(home: Path, words: tuple[str, ...], message: str) -> None:
    result = run(home, *words)
    assert result.returncode == 1
    assert message in " ".join(result.stdout.split())
    assert "Traceback" not in result.stdout + result.stderr


def test_wrong_words_are_exit_code_2_and_help_is_0(home: Path) -> None:
    assert run(home, "nonsense").returncode == 2
    assert run(home, "--help").returncode == 0
    for command in ("pretrain", "resume", "evaluate", "extract", "samples", "settings", "tensorboard"):
        shown = run(home, command, "--help")
        assert shown.returncode == 0
        assert "usage: featext.py" in shown.stdout


def test_without_a_terminal_the_help_is_shown_in_place_of_the_menu(home: Path) -> None:
    result = run(home)
    assert result.returncode == 2
    assert "pretrain" in result.stdout
    assert "Traceback" not in result.stderr


def test_settings_shows_every_setting_and_where_it_differs_from_its_default(home: Path) -> None:
    shown = run(home, "settings", "--set", "seed=7")
    assert shown.returncode == 0
    for name in Settings.model_fields:
        assert name in shown.stdout
    line = next(line for line in shown.stdout.splitlines() if re.search(r"\bseed\b", line) and "split" not in line)
    assert "7" in line
    assert "42" in line
    assert "torch" in shown.stdout


def test_a_file_where_a_folder_should_be_is_one_line(home: Path) -> None:
    (home / "training").mkdir()
    (home / "training" / "checkpoints").write_text("a file")
    result = run(home, "pretrain", "--name", "first")
    assert result.returncode == 1
    assert "cannot be written" in " ".join(result.stdout.split())
    assert "Traceback" not in result.stdout + result.stderr


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a command printed, however it was wrapped."""
    assert "Traceback" not in result.stdout + result.stderr
    return " ".join(result.stdout.split())


def test_without_images_a_line_says_where_to_put_them_and_offers_the_samples(home: Path) -> None:
    for state in ("empty", "texts", "missing"):
        images = home / "data" / "images"
        shutil.rmtree(images, ignore_errors=True)
        if state != "missing":
            images.mkdir(parents=True)
        if state == "texts":
            (images / "notes.txt").write_text("no image")
        result = run(home, "pretrain")
        assert result.returncode == 1
        shown = one_line(result)
        assert "data/images" in shown.replace("\\", "/")
        assert "put pictures there, or make sample images with 'python featext.py samples'" in shown
        assert ("(1 other file)" in shown) == (state == "texts")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_odd_names_are_shown_in_every_encoding_and_as_no_command_to_the_terminal(home: Path, encoding: str) -> None:
    if sys.platform == "win32":
        pytest.skip("no such names there")
    images = home / "data" / "images"
    for name in ("日本.jpg", "\x1b[2Jclear.jpg", "two\nlines.jpg", os.fsdecode(b"caf\xe9.jpg")):
        (images / name).write_text("not an image")
    result = run(home, "pretrain", "--set", "num_train_samples=12", PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stdout + result.stderr
    shown = one_line(result)
    assert "\x1b" not in result.stdout
    assert r"\x1b[2Jclear.jpg" in shown
    assert r"two\nlines.jpg" in shown
    assert "日本.jpg" in shown or r"\u65e5\u672c.jpg" in shown
    assert "4 rejected" in shown


def test_output_into_a_pipe_that_is_closed_is_no_traceback(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(home / "featext.py"), "settings"],
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_an_error_nobody_expected_is_one_line_with_the_log_that_has_the_traceback(tmp_path: Path) -> None:
    shown = io.StringIO()
    screen = Screen(Console(file=shown, width=300), Workspace(tmp_path))

    def fail() -> None:
        raise ZeroDivisionError("nobody thought of it")

    assert guarded(screen, "testing", fail) == FAILED
    log = tmp_path / "training" / "logs" / "fext.log"
    assert str(log) in shown.getvalue()
    assert "Traceback" not in shown.getvalue()
    assert "nobody thought of it" in log.read_text(encoding="utf-8")
    assert "in fail" in log.read_text(encoding="utf-8")


# --- Ctrl-C


def work(batches: int, presses: int) -> list[str]:
    """Press Ctrl-C in each batch; what was done is told even where it raises."""
    done: list[str] = []
    reporter = ConsoleReporter(Console(file=io.StringIO()))
    try:
        with reporter.progress("working", batches) as progress:
            for number in range(batches):
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)
                done.append(f"batch {number}")
                progress.advance()
    except KeyboardInterrupt:
        done.append("stopped")
    return done


def test_the_first_ctrl_c_waits_for_the_batch_and_the_second_does_not() -> None:
    assert work(batches=3, presses=0) == ["batch 0", "batch 1", "batch 2"]
    assert work(batches=3, presses=1) == ["batch 0", "stopped"]
    assert work(batches=3, presses=2) == ["stopped"]


def press_when_the_last_batch_is_done() -> None:
    with ConsoleReporter(Console(file=io.StringIO())).progress("working", 1) as progress:
        progress.advance()
        signal.raise_signal(signal.SIGINT)


def test_a_ctrl_c_after_the_last_batch_is_not_lost_and_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        press_when_the_last_batch_is_done()
    assert signal.getsignal(signal.SIGINT) is before


# --- the menu in a terminal

DOWN, ENTER, CTRL_C = "\x1b[B", "\r", "\x03"
ENTRIES = ["Pretrain", "Resume", "Evaluate", "Extract", "TensorBoard", "Settings", "Exit"]


class Terminal:
    """A person at the menu."""

    def __init__(self, home: Path, columns: int = 100, **variables: str) -> None:
        pexpect = pytest.importorskip("pexpect")
        self.child: Any = pexpect.spawn(
            sys.executable,
            [str(home / "featext.py")],
            env=environment() | {"TERM": "xterm", "COLUMNS": str(columns)} | variables,
            encoding="utf-8",
            dimensions=(40, columns),
            timeout=120,
        )

    def choose(self, entry: str) -> None:
        self.child.expect("Exit and close")
        self.child.send(DOWN * ENTRIES.index(entry) + ENTER)

    def see(self, text: str) -> None:
        self.child.expect(re.escape(text))

    def type(self, text: str) -> None:
        self.child.send(text)


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    if sys.platform == "win32":
        pytest.skip("needs a pseudo-terminal")
    person = Terminal(home)
    yield person
    person.child.close(force=True)


def test_a_journey_through_the_menu(home: Path, terminal: Terminal) -> None:
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type("first" + ENTER)
    terminal.see("Checkpoint first")
    terminal.see("written to")

    terminal.choose("Evaluate")
    terminal.see("Evaluation of first")
    terminal.see("linear map")

    terminal.choose("Extract")
    terminal.see("data/images (12 images)")
    terminal.type(ENTER)
    terminal.see("12 of 2,048 features")

    write_configurations(home, feature_grid=1)
    terminal.choose("Extract")
    terminal.see("data/images (12 images)")
    terminal.type(ENTER)
    terminal.see("12 of 512 features")

    write_configurations(home, epochs="many")
    terminal.choose("Pretrain")
    terminal.see("epochs = 'many' is not allowed")

    write_configurations(home, epochs=2)
    terminal.choose("Resume")
    terminal.see("first is finished with 1 epochs")
    terminal.type("2" + ENTER)
    terminal.see("epoch 2/2")
    terminal.see("written to")

    terminal.choose("Settings")
    terminal.see("This machine")
    terminal.choose("Exit")
    terminal.child.expect_exact(__import__("pexpect").EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0
    assert sorted(path.name for path in (home / "inference").iterdir()) == ["first_images", "first_images_2"]


def test_leaving_a_question_leads_back_to_the_menu(terminal: Terminal) -> None:
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type(CTRL_C)
    terminal.choose("Evaluate")
    terminal.see("there is no checkpoint yet")
    terminal.choose("Exit")
    terminal.child.expect_exact(__import__("pexpect").EOF)


def test_where_there_are_no_images_the_menu_offers_the_samples(home: Path, terminal: Terminal) -> None:
    shutil.rmtree(home / "data" / "images")
    terminal.choose("Pretrain")
    terminal.see("Use sample images")
    terminal.type("y")
    terminal.see("80 sample images")
    terminal.see("Name of the checkpoint")
    terminal.type(CTRL_C)
    terminal.choose("Exit")
    assert len(list((home / "data" / "samples").glob("*.png"))) == 80


def test_ctrl_c_in_a_job_leads_back_to_the_menu_and_the_run_can_be_resumed(home: Path, terminal: Terminal) -> None:
    write_configurations(home, epochs=500)
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type("long" + ENTER)
    terminal.see("epoch 2/500: test")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Resume")
    terminal.see("Go on with long after epoch")
    terminal.see("images/s")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Exit")


def test_ctrl_c_in_each_job_leads_back_to_the_menu_and_resuming_completes(home: Path, terminal: Terminal) -> None:
    write_images(home / "data" / "images", 300)
    write_configurations(home, epochs=3, num_train_samples=200, num_test_samples=100, num_processors=2)
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type("model" + ENTER)
    terminal.see("epoch 1/3, loss")
    terminal.type(CTRL_C)
    terminal.see("model is kept as it stands: 0 epochs and")
    terminal.see("Stopped.")
    terminal.choose("Evaluate")
    terminal.see("evaluating model on 300 images")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Extract")
    terminal.see("data/images (300 images)")
    terminal.type(ENTER)
    terminal.see("extracting 300 images")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Resume")
    terminal.see("going on after epoch 0 and")
    terminal.see("epoch 3/3: test")
    terminal.see("written to")
    terminal.choose("Exit")
    terminal.child.expect_exact(__import__("pexpect").EOF)
    assert "Traceback" not in str(terminal.child.before)


PLAIN_TERMINALS = [
    {"TERM": "dumb"},
    {"TERM": "xterm", "NO_COLOR": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"TERM": "vt100", "PYTHONIOENCODING": "ascii"},
]


@pytest.mark.parametrize("variables", PLAIN_TERMINALS, ids=["dumb", "no colour, no Unicode", "old"])
def test_a_narrow_plain_terminal_shows_all_within_its_width(home: Path, variables: dict[str, str]) -> None:
    if sys.platform == "win32":
        pytest.skip("needs a pseudo-terminal")
    terminal = Terminal(home, columns=60, **variables)
    terminal.choose("Settings")
    terminal.see("This machine")
    terminal.see("versions")
    terminal.choose("Evaluate")
    terminal.see("there is no checkpoint yet")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", str(terminal.child.before))
    assert max(len(line) for line in shown.replace("\r", "\n").split("\n")) <= 60
    terminal.choose("Exit")
    terminal.child.expect_exact(__import__("pexpect").EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0


def test_a_terminal_that_goes_away_ends_the_menu_and_leaves_a_run_that_can_be_resumed(
    home: Path, terminal: Terminal
) -> None:
    write_configurations(home, epochs=500)
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type("long" + ENTER)
    terminal.see("epoch 2/500: test")
    terminal.child.close(force=True)
    history = (home / "training" / "checkpoints" / "long" / "history.csv").read_text(encoding="utf-8")
    result = run(home, "resume", "long", "--epochs", str(history.count("\n") + 1))
    assert result.returncode == 0, result.stdout + result.stderr


def test_tensorboard_opens_from_the_menu_and_ends_with_it(home: Path, terminal: Terminal) -> None:
    import urllib.request

    terminal.choose("TensorBoard")
    terminal.child.expect(r"TensorBoard is open at (http://127\.0\.0\.1:\d+/)")
    address = terminal.child.match.group(1)
    with urllib.request.urlopen(address) as page:
        assert b"TensorBoard" in page.read()
    terminal.choose("Exit")
    terminal.child.expect_exact(__import__("pexpect").EOF)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)
