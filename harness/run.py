"""Trains and evaluates methods on tasks: `harness/run_command.py`, whose imports take seconds.

python -m harness.run --methods vgf,fql --suite ogbench
"""

from core.command import main

if __name__ == "__main__":
    main("harness.run_command:app")
