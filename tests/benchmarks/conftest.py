"""The benchmarks are no part of the installed package: they are found at the root, last of all."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
