"""python -m gpu_bgstat"""

import sys

from gpu_bgstat.cli import main

if __name__ == "__main__":
    sys.exit(main())
