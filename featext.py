"""FeXT: features from images. Without arguments the menu opens; `python featext.py --help` lists the commands."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from fext.screen.program import main
    from fext.screen.streams import with_utf8_names

    with_utf8_names()
    sys.exit(main(Path(__file__).resolve().parent, sys.argv[1:]))
