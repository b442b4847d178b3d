"""`python -m studio`: see `studio.cli`."""

import os
import sys

# torch reads it once, when it is imported: its threads would spin between operations, and where other
# programs want the same cores, everybody waits for everybody
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from studio.cli import main

if __name__ == "__main__":
    sys.exit(main())
