"""configurations.py, --set and stored JSON -> validated Settings, or one line that says what is wrong and where."""

import ast
import difflib
import json
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from fext.errors import SettingsError
from fext.settings.table import RENAMED, UNNAMED, Settings, setting_infos

CONFIGURATIONS_FILE = "configurations.py"


def load_settings(file: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read configurations.py and apply `name=value` overrides.

    The file is run as Python, so that values may be computed; names that begin with an underscore, and imported
    modules, are the user's own. Raises SettingsError that names the file and line (or --set), the setting, its
    value and what is allowed.
    """
    values, places = _read_configurations(file)
    for override in overrides:
        name, value = _parse_override(override)
        values[name] = value
        places[name] = "--set"
    return _validated(values, places)


def names_of(overrides: Sequence[str]) -> list[str]:
    """The settings that `name=value` overrides name; raises SettingsError where one is none."""
    return [_parse_override(override)[0] for override in overrides]


def settings_from_json(text: str, origin: str) -> Settings:
    """The settings stored with a checkpoint; raises SettingsError naming `origin` where they do not fit."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{origin}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{origin}: not a table of settings")
    return _validated(UNNAMED | values, dict.fromkeys(values, origin))


def change_settings(settings: Settings, **changes: object) -> Settings:
    """A copy of `settings` with some values changed, validated anew."""
    return _validated(settings.model_dump() | changes, dict.fromkeys(changes, "settings"))


def _read_configurations(file: Path) -> tuple[dict[str, object], dict[str, str]]:
    """The values that the file sets and, for messages, where it sets each."""
    try:
        source = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SettingsError(f"{file.name} is missing from {file.parent}: every setting stands there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file.name} cannot be read: {error}") from error
    namespace: dict[str, object] = {"__name__": "configurations", "__file__": str(file)}
    try:
        tree = ast.parse(source, filename=file.name)
        exec(compile(tree, file.name, "exec"), namespace)  # the user's own file, run on the user's behalf
    except SyntaxError as error:
        place = f"{file.name}, line {error.lineno}" if error.lineno else file.name
        raise SettingsError(f"{place}: not valid Python ({error.msg})") from error
    except (Exception, SystemExit) as error:
        place = f"{file.name}, line {_line_of_error(error, file.name)}"
        raise SettingsError(f"{place}: stops with {type(error).__name__}: {_one_line(str(error))}") from error
    values = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    lines = _lines_of_assignments(tree)
    return values, {name: f"{file.name}, line {lines[name]}" if name in lines else file.name for name in values}


def _line_of_error(error: BaseException, name: str) -> int:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return lines[-1] if lines and lines[-1] else 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lines_of_assignments(tree: ast.Module) -> dict[str, int]:
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            lines[node.id] = max(node.lineno, lines.get(node.id, 0))
    return lines


def _parse_override(override: str) -> tuple[str, object]:
    name, equals, text = override.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name:
        raise SettingsError(f"--set {_plain(override)}: write it as name=value, such as --set epochs=20")
    words: dict[str, object] = {"true": True, "false": False}
    if text.lower() in words:
        return name, words[text.lower()]
    try:
        return name, ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return name, text


def _validated(values: Mapping[str, object], places: Mapping[str, str]) -> Settings:
    for name in values:
        if name not in Settings.model_fields:
            raise SettingsError(f"{places.get(name, 'settings')}: {_unknown(name)}")
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][0])
    info = next(info for info in setting_infos() if info.name == wrong)
    place = places.get(wrong, "settings")
    raise SettingsError(f"{place}: {wrong} = {_short(values[wrong])} is not allowed; allowed: {info.allowed}")


def _plain(text: str) -> str:
    """A text as it stands, where it is short and can be printed."""
    return text if text.isprintable() and len(text) <= 80 else _short(text)


def _short(value: object) -> str:
    try:
        text = _one_line(repr(value))
    except Exception:  # a number of thousands of digits, or a class of the user's own
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _unknown(name: str) -> str:
    if name in RENAMED:
        return f"there is no setting {name}; it is called {RENAMED[name]} now"
    lowered = {known.lower(): known for known in Settings.model_fields}
    nearest = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[nearest[0]]}?" if nearest else f"; every setting stands in {CONFIGURATIONS_FILE}"
    return f"there is no setting {_plain(name)}{hint}"
