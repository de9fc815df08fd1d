"""The house: a room of fext/ imports only rooms above it, only the screen talks, and torch waits for a job."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "fext"
PROGRAM = REPOSITORY / "featext.py"

# From the top of the house to the bottom.
ROOMS = (
    "errors", "settings", "reporting", "data", "model", "compute", "pictures", "store", "jobs", "screen",
)  # fmt: skip
WITHOUT_TORCH = ("errors", "settings", "reporting", "screen")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    """fext/data/images.py -> fext.data.images."""
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of fext is in; empty for fext itself."""
    return module.split(".")[1] if "." in module else ""


def imported_modules(file: Path) -> set[str]:
    """The full name of everything that the file imports anywhere in it, names from packages included."""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            modules |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return modules


def imported_rooms(file: Path) -> set[str]:
    """The rooms of fext that the file imports from."""
    inside = {module for module in imported_modules(file) if module.split(".")[0] == "fext"}
    return {room_of(module) for module in inside} & {*ROOMS, *(path.stem for path in PACKAGE.iterdir())}


def called_names(file: Path) -> set[str]:
    """The plain names that the file calls, such as print."""
    calls = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def short_name(file: Path) -> str:
    """How the file is called in a report of the tests."""
    return str(file.relative_to(REPOSITORY))


def test_fext_has_only_the_rooms_of_the_design() -> None:
    rooms = {room_of(module_name(file)) for file in FILES} - {""}
    assert rooms <= set(ROOMS)
    assert rooms >= {"errors", "settings", "data", "model"}


@pytest.mark.parametrize("file", FILES, ids=short_name)
def test_a_room_imports_only_rooms_above_it(file: Path) -> None:
    room = room_of(module_name(file))
    allowed = {room, *ROOMS[: ROOMS.index(room)]} if room else set()
    assert imported_rooms(file) <= allowed


@pytest.mark.skipif(not PROGRAM.exists(), reason="featext.py is not there yet")
def test_the_program_imports_only_the_screen() -> None:
    assert imported_rooms(PROGRAM) == {"screen"}


@pytest.mark.parametrize("file", [file for file in FILES if room_of(module_name(file)) != "screen"], ids=short_name)
def test_only_the_screen_prints_and_asks(file: Path) -> None:
    assert not called_names(file) & {"print", "input"}
    libraries = {module.split(".")[0] for module in imported_modules(file)}
    assert not libraries & {"questionary", "prompt_toolkit", "rich", "tqdm"}


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_torch_is_not_imported_before_a_job_starts(room: str) -> None:
    modules = [module_name(file) for file in FILES if room_of(module_name(file)) == room]
    assert modules
    assert not imports_torch(modules)


@pytest.mark.skipif(not PROGRAM.exists(), reason="featext.py is not there yet")
def test_the_program_is_there_without_torch() -> None:
    assert not imports_torch(["featext"])


def test_a_job_starts_without_the_compiler_of_torch_which_takes_seconds_to_load() -> None:
    jobs = [module_name(file) for file in FILES if room_of(module_name(file)) == "jobs"]
    assert not imports(jobs, "torch._dynamo")


def imports_torch(modules: list[str]) -> bool:
    return imports(modules, "torch")


def imports(modules: list[str], imported: str) -> bool:
    """Whether a fresh Python has imported something after these modules."""
    script = f"import sys, {', '.join(modules)}; print({imported!r} in sys.modules)"
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip() != "False"
