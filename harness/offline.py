"""What choosing without the environment goes by: `harness/offline_command.py`.

python -m harness.offline --methods vgf --suite toy
"""

from core.command import main

if __name__ == "__main__":
    main("harness.offline_command:app")
