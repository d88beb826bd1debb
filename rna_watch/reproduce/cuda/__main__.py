"""`python3 -m rna_watch.reproduce.cuda`."""

import sys

from rna_watch.reproduce.cuda.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
