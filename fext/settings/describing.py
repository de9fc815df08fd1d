"""Settings -> the text of configurations.py and the table in the README, which therefore cannot disagree."""

import textwrap

from fext.settings.table import CATEGORIES, setting_infos


def configurations_text() -> str:
    """The text of configurations.py with every setting at its default."""
    lines = [
        "# The settings of FeXT: everything that can be tuned, in one place. Edit the values and save; the menu reads",
        "# this file anew for each action. A wrong value is refused with a message that says what is allowed.",
    ]
    for category, title in CATEGORIES.items():
        lines += ["", "", f"# {'-' * 8} {title}"]
        for info in setting_infos():
            if info.category == category:
                lines += ["", *_comment(info.description), *_comment(f"Allowed: {info.allowed}.")]
                lines.append(f"{info.name} = {_literal(info.default)}")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, width=110, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def settings_table() -> str:
    """Every setting as a Markdown table, for the README."""
    lines = ["| setting | default | what |", "|---|---|---|"]
    for category, title in CATEGORIES.items():
        lines.append(f"| **{title}** | | |")
        for info in setting_infos():
            if info.category == category:
                allowed = info.allowed.replace("|", "\\|")
                lines.append(f"| `{info.name}` | `{_literal(info.default)}` | {info.description} Allowed: {allowed}. |")
    return "\n".join(lines) + "\n"
