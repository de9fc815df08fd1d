"""Every setting, read from configurations.py and validated; nothing here writes or knows what a setting is used for."""

from fext.settings.checks import LossName
from fext.settings.describing import configurations_text, settings_table
from fext.settings.reading import CONFIGURATIONS_FILE, change_settings, load_settings, names_of, settings_from_json
from fext.settings.table import CATEGORIES, CHANGEABLE, RENAMED, Settings, setting_infos

__all__ = [
    "CATEGORIES",
    "CHANGEABLE",
    "CONFIGURATIONS_FILE",
    "RENAMED",
    "LossName",
    "Settings",
    "change_settings",
    "configurations_text",
    "load_settings",
    "names_of",
    "setting_infos",
    "settings_from_json",
    "settings_table",
]
