"""Updates a second, compile time and memory of every method: `harness/throughput_command.py`.

python -m harness.throughput --methods vgf,fql --seeds 1,8
"""

from core.command import main

if __name__ == "__main__":
    main("harness.throughput_command:app")
