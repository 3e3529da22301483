"""What trained methods tell of themselves beside scores: `harness/diagnose_command.py`.

python -m harness.diagnose --methods qgf --suite toy
"""

from core.command import main

if __name__ == "__main__":
    main("harness.diagnose_command:app")
