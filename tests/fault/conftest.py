"""Lets the tests of this folder import `kills`, which benchmarks/fault_injection.py shares."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
