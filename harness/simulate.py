"""How long a plan would take on many workers of which some die: `harness/simulate_command.py`.

python -m harness.simulate --synthetic 10000 --workers 64
"""

from core.command import main

if __name__ == "__main__":
    main("harness.simulate_command:app")
