"""Turns records into tables, figures and statistics.

It reads files and runs nothing. Of the other packages it uses `core` alone.
"""

import runpy
import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # a command is starting: before anything of ours is looked for in the working folder
    _shadows = runpy.run_path(str(Path(__file__).parents[1] / "core" / "shadows.py"))
    _shadows["refuse_strangers"]("core")
