"""Writes the sample images."""

from pathlib import Path

from fext.data.samples import sample_tiles, sources_text
from fext.errors import UsageError
from fext.store import files


def write_samples(folder: Path) -> int:
    """Write the sample tiles and SOURCES.md to a folder; returns how many tiles.

    Tiles already there are written again. Raises UsageError where the folder holds other files.
    """
    tiles = dict(sample_tiles())
    ours = {*tiles, "SOURCES.md"}
    strangers = [entry.name for entry in folder.iterdir() if entry.name not in ours] if folder.is_dir() else []
    if strangers:
        raise UsageError(f"{folder} holds other files (such as {sorted(strangers)[0]}): name an empty folder")
    for name, tile in tiles.items():
        files.write_picture(folder / name, tile)
    files.write_text(folder / "SOURCES.md", sources_text())
    return len(tiles)
