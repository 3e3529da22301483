"""Writes the submission script of a job array whose tasks share one plan: `harness/array_command.py`.

python -m harness.array --jobs 16 --time 4h --gpus 1 -- --suite ogbench --methods vgf,fql --results /scratch/vgf
"""

from core.command import main

if __name__ == "__main__":
    main("harness.array_command:app")
