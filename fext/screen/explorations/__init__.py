"""What features can be used for: each exploration has its command, its entry in the menu, and shows its result.

A module here has TITLE, its line in the menu; add_command, which adds its subcommand; and from_menu, which asks what
the command is told by words.
"""

from fext.screen.explorations import (
    anomalies,
    classify,
    clusters,
    duplicates,
    maps,
    predict,
    recipe,
    similar,
    view,
)

EXPLORATIONS = (view, similar, duplicates, clusters, maps, anomalies, classify, predict)
# A recipe is a command of its own, and has its line in the menu beside them.
MENU = (*EXPLORATIONS, recipe)
