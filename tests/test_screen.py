"""The screen: commands with exit codes, and the menu in a real terminal."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import environment, make_home, run
from rich.console import Console

from fext.screen.actions import Screen
from fext.screen.console import ConsoleReporter
from fext.screen.guard import FAILED, guarded
from fext.screen.program import main
from fext.settings import Settings
from fext.store.workspace import Workspace

# --- commands


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed in this process is not broken in the middle of a path, however long that of the test's folder."""
    monkeypatch.setenv("COLUMNS", "300")


class Trained(NamedTuple):
    """A user's folder after `pretrain --name first`, and what that printed."""

    home: Path
    result: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    home = tmp_path_factory.mktemp("trained")
    make_home(home)
    return Trained(home, run(home, "pretrain", "--name", "first"))


@pytest.fixture
def trained_home(trained: Trained, tmp_path: Path) -> Path:
    """A copy for a test to change."""
    return Path(shutil.copytree(trained.home, tmp_path / "home"))


def test_the_whole_way_by_commands(trained: Trained, trained_home: Path) -> None:
    home, result = trained_home, trained.result
    assert result.returncode == 0, result.stdout + result.stderr
    assert "epoch 1/1: validation" in result.stdout
    assert "training/checkpoints/first" in result.stdout.replace("\\", "/")
    assert "2 epochs" not in result.stdout
    longer = run(home, "resume", "--epochs", "2")
    assert longer.returncode == 0
    assert "epoch 2/2" in longer.stdout
    extracted = run(home, "extract", "--set", "feature_grid=1", "--name", "table")
    assert extracted.returncode == 0
    header = (home / "inference" / "table" / "features.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.count("feature_") == 512
    explored = run(home, "explore", "view", "table")
    assert explored.returncode == 0
    assert "inference/table/viewer.html" in explored.stdout.replace("\\", "/")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pretrain", "--set", "epochs=many"), "--set: epochs = 'many' is not allowed; allowed: a whole number"),
        (("pretrain", "--set", "epoch=2"), "there is no setting epoch; did you mean epochs?"),
        (("pretrain", "--images", "nowhere"), "nowhere does not exist"),
        (("evaluate",), "there is no checkpoint"),
        (("extract", "nothing"), "there is no checkpoint nothing"),
        (("explore", "classify"), "there is no extraction: make one with 'extract' first"),
        (("explore", "predict", "--images", "."), "there is no classifier: train one with 'explore classify' first"),
        (("recipe", "cifar10", "--images", "nowhere"), "nowhere does not exist"),
        (("explore", "view"), "there is no extraction: make one with 'extract' first"),
        (("explore", "similar", "--picture", "a.png"), "there is no extraction: make one with 'extract' first"),
        (("explore", "duplicates", "table"), "there is no extraction table"),
        (("explore", "clusters"), "there is no extraction: make one with 'extract' first"),
        (("explore", "map"), "there is no extraction: make one with 'extract' first"),
        (("tensorboard", "nothing"), "there is no extraction nothing: none is made yet"),
        (("explore", "anomalies", "--images", "data/images"), "there is no checkpoint: train one"),
        (("pretrain", "--name", "a/b"), "cannot be a name"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_1(
    home: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failed(capsys, home, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("resume", "--epochs", "2", "--set", "learning_rate=0.1"),
            "first was trained with learning_rate = 0.001, and",
        ),
        (("resume", "--epochs", "2", "--set", "split_seed=1"), "first was trained with split_seed = 42, and keeps it"),
        (("evaluate", "--set", "latent_channels=4"), "first was trained with latent_channels = 512, and keeps it"),
        (("extract", "--set", "resize_mode=crop"), "first was trained with resize_mode = 'stretch', and keeps it"),
        (("resume", "--set", "learning_rate=0.001"), "first has 1 finished epochs"),  # the same value does no harm
    ],
)
def test_another_value_for_what_a_checkpoint_was_trained_with_is_refused(
    trained: Trained, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failed(capsys, trained.home, *words)


def test_wrong_words_are_exit_code_2_and_help_is_0(home: Path) -> None:
    assert run(home, "nonsense").returncode == 2
    assert run(home, "--help").returncode == 0
    for command in ("analyze", "pretrain", "resume", "evaluate", "extract", "samples", "settings", "tensorboard"):
        shown = run(home, command, "--help")
        assert shown.returncode == 0
        assert "usage: featext.py" in shown.stdout


def test_without_a_terminal_the_help_is_shown_in_place_of_the_menu(home: Path) -> None:
    result = run(home)
    assert result.returncode == 2
    assert "pretrain" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("The menu needs a terminal: ")
    assert result.stderr == ""


def test_settings_shows_every_setting_and_where_it_differs_from_its_default(home: Path) -> None:
    shown = run(home, "settings", "--set", "seed=7")
    assert shown.returncode == 0
    for name in Settings.model_fields:
        assert name in shown.stdout
    line = next(line for line in shown.stdout.splitlines() if re.search(r"\bseed\b", line) and "split" not in line)
    assert "7" in line
    assert "42" in line
    assert "torch" in shown.stdout


def test_the_table_of_settings_breaks_no_word_of_its_heading_at_80_columns(home: Path) -> None:
    shown = run(home, "settings", COLUMNS="80").stdout
    assert "differs from" in shown
    assert "'vgg16_bn'" in shown


def test_a_file_where_a_folder_should_be_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "training").mkdir()
    (home / "training" / "checkpoints").write_text("a file")
    assert "cannot be written" in failed(capsys, home, "pretrain", "--name", "first")


def failed(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> str:
    """What a command printed that ended with exit code 1; in this process, for torch takes seconds to load."""
    assert main(home, words) == FAILED
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    return " ".join(shown.out.split())


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a command printed, however it was wrapped."""
    assert "Traceback" not in result.stdout + result.stderr
    return " ".join(result.stdout.split())


def test_without_images_a_line_says_where_to_put_them_and_offers_the_samples(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in ("empty", "texts", "missing"):
        images = home / "data" / "images"
        shutil.rmtree(images, ignore_errors=True)
        if state != "missing":
            images.mkdir(parents=True)
        if state == "texts":
            (images / "notes.txt").write_text("no image")
        shown = failed(capsys, home, "pretrain")
        assert "data/images" in shown.replace("\\", "/")
        assert "put pictures there, or make sample images with 'python featext.py samples'" in shown
        assert ("(1 other file)" in shown) == (state == "texts")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_odd_names_are_shown_in_every_encoding_and_as_no_command_to_the_terminal(
    trained_home: Path, encoding: str
) -> None:
    if sys.platform == "win32":
        pytest.skip("no such names there")
    images = trained_home / "data" / "images"
    for name in ("日本.jpg", "\x1b[2Jclear.jpg", "two\nlines.jpg", os.fsdecode(b"caf\xe9.jpg")):
        (images / name).write_text("not an image")
    result = run(trained_home, "extract", PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stdout + result.stderr
    shown = one_line(result)
    assert "\x1b" not in result.stdout
    assert r"\x1b[2Jclear.jpg" in shown
    assert r"two\nlines.jpg" in shown
    assert "日本.jpg" in shown or r"\u65e5\u672c.jpg" in shown
    assert re.search(r"rejected\W+4 \(see rejected.csv\)", shown)


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
