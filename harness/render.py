"""A film of a trained policy in its environment: `harness/render_command.py`.

python -m harness.render results/ --task cube-single-play-singletask-task2-v0 --method vgf --out video.mp4
"""

from core.command import main

if __name__ == "__main__":
    main("harness.render_command:app")
