"""The menu in a real terminal: journeys that a person makes."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import environment, run, write_configurations, write_images

UP, DOWN, ENTER, CTRL_C = "\x1b[A", "\x1b[B", "\r", "\x03"
EXPLORATIONS = ["view", "similar", "duplicates", "clusters", "map", "anomalies", "classify", "predict", "recipe"]
ENTRIES = ["Analyze", "Pretrain", "Resume", "Evaluate", "Extract", "Explore", "TensorBoard", "Settings", "Exit"]


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
        self.child.ptyproc.delayafterterminate = 0.5  # pexpect's own tenth of a second is short for a busy machine

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
    terminal.choose("Analyze")
    terminal.see("Analysis of data/images")
    terminal.see("12 now")
    terminal.see("tables and pictures")

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

    terminal.choose("Explore")
    terminal.see("used for?")
    terminal.type(ENTER)
    terminal.see("Which extraction?")
    terminal.type(DOWN + ENTER)
    terminal.see("12 images of first_images_2")
    terminal.see("inference/first_images_2/viewer.html")

    terminal.choose("Explore")
    terminal.see("used for?")
    terminal.type(EXPLORATIONS.index("anomalies") * DOWN + ENTER)
    terminal.see("Folder to search")
    terminal.type(str(home / "data" / "images") + ENTER)
    terminal.see("normal images, if there is one")
    terminal.type(ENTER)
    terminal.see("untrained encoder")
    terminal.type("n")
    terminal.see("7 images are not scored, for the model was trained on them")
    terminal.see("inference/anomalies_first_images/report.html")

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
    assert sorted(path.name for path in (home / "inference").glob("[!.]*")) == [
        "anomalies_first_images",
        "first_images",
        "first_images_2",
    ]


def test_leaving_a_question_leads_back_to_the_menu(terminal: Terminal) -> None:
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type(CTRL_C)
    terminal.choose("Evaluate")
    terminal.see("there is no checkpoint yet")
    terminal.choose("Explore")
    terminal.see("used for?")
    terminal.type(UP + ENTER)  # the last one
    terminal.see("a folder for each class")
    terminal.type(CTRL_C)
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


def test_ctrl_c_in_each_job_leads_back_to_the_menu_and_resuming_completes(home: Path, terminal: Terminal) -> None:
    write_images(home / "data" / "images", 120)
    write_configurations(home, epochs=4, num_train_samples=80, num_test_samples=40, num_processors=2)
    terminal.choose("Analyze")
    terminal.see("120 images to look at")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Pretrain")
    terminal.see("Name of the checkpoint")
    terminal.type("model" + ENTER)
    terminal.see("epoch 1/4, loss")
    terminal.type(CTRL_C)
    terminal.see("model is kept as it stands: 0 epochs and")
    terminal.see("Stopped.")
    write_configurations(home)  # from here on images are read in the main process, which starts sooner
    terminal.choose("Evaluate")
    terminal.see("model is not trained to its end (not one epoch: its weights are those it started with)")
    terminal.see("evaluating model on 120 images")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Extract")
    terminal.see("data/images (120 images)")
    terminal.type(ENTER)
    terminal.see("extracting 120 images")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Resume")
    terminal.see("going on after 0 epochs and")
    terminal.see("images/s")
    terminal.type(CTRL_C)
    terminal.see("Stopped.")
    terminal.choose("Resume")
    terminal.see("going on after")
    terminal.see("epoch 4/4: validation")
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
    terminal.see("epoch 2/500: validation")
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
