"""FeXT: features from images. Without arguments the menu opens; `python featext.py --help` lists the commands."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from fext.screen.edge import run

    sys.exit(run(Path(__file__).resolve().parent, sys.argv[1:]))
