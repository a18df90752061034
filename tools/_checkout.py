"""Lets the tools find the package from a checkout that is not installed: import this first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
