"""FeXT: features from images. Without arguments the menu opens; `python featext.py --help` lists the commands."""

import sys
from pathlib import Path

from fext.errors import OUT_OF_MEMORY, is_out_of_memory

if __name__ == "__main__":
    try:
        from fext.screen.program import main
        from fext.screen.streams import with_utf8_names

        with_utf8_names()
        sys.exit(main(Path(__file__).resolve().parent, sys.argv[1:]))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(OUT_OF_MEMORY)
