"""How commands start and end, in processes of their own: what terminals, shells and other people's files do to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
APP = """
import os, sys, time
import typer
from core.errors import BadInput
app = typer.Typer(pretty_exceptions_enable=False)

@app.command()
def run(what: str) -> None:
    if what == "signs":
        print("±2 μ é")
        print("5 ≥ 10", file=sys.stderr)
    elif what == "many":
        for number in range(100_000):
            print(number)
    elif what == "complain":
        for _ in range(10_000):
            print("a line that fills the pipe", file=sys.stderr)
        raise BadInput("bad\\nnews from \\x1b[31m")
    elif what == "wait":
        try:
            print("waiting", flush=True)
            time.sleep(60)
        finally:
            print("tidying", flush=True)
            time.sleep(60 if os.environ.get("SLOW") else 0)
    elif what == "missing":
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    elif what == "home":
        from pathlib import Path
        import getpass
        print(Path.home(), getpass.getuser())
    elif what == "opened":
        with open("opened", "w") as file:
            os.write(2, b"from a library")
            file.write("mine")
    else:
        raise ZeroDivisionError
"""
START = "from core.command import main; main('probe_app:app')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "probe_app.py").write_text(APP)
    return tmp_path


def start(folder: Path, what: str, **more: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": f"{ROOT}:{folder}", **more.pop("env", {})}
    return subprocess.Popen([*more.pop("prefix", ()), sys.executable, "-c", START, what], cwd=folder, env=environment,
                            text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})  # fmt: skip


def run(folder: Path, what: str, **more: Any) -> tuple[int, str, str]:
    process = start(folder, what, **more)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"},
                                 {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])  # fmt: skip
def test_signs_that_a_terminal_lacks_are_spelled_out(folder: Path, env: dict[str, str]) -> None:
    assert run(folder, "signs", env=env) == (0, "+-2 mu e\n", "5 >= 10\n")


def test_a_bad_input_is_one_printable_line(folder: Path) -> None:
    code, _, err = run(folder, "complain")
    assert code == 2 and err.splitlines()[-1] == "error: bad news from \\x1b[31m"


def test_a_wrong_option_is_one_line_and_a_bug_is_a_traceback(folder: Path) -> None:
    code, out, err = run(folder, "--nope")
    assert (code, out, err) == (2, "", "error: No such option: --nope\n")
    code, _, err = run(folder, "bug")
    assert code == 1 and err.endswith("ZeroDivisionError\n")


def test_what_is_not_installed_says_how_to_have_it(folder: Path) -> None:
    assert run(folder, "missing") == (
        2,
        "",
        "error: torch is not installed: pip install -c constraints.txt -e '.[rlhf]'\n",
    )


def test_a_reader_that_leaves_ends_it_silently(folder: Path) -> None:
    process = start(folder, "many")
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


def test_stderr_that_is_closed_changes_nothing(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    assert run(folder, "complain", stderr=write)[:2] == (2, "")
    os.close(write)
    assert run(folder, "signs", prefix=("sh", "-c", '"$@" 2>&-', "sh")) == (0, "±2 μ é\n", "")


def test_a_full_disk_behind_stdout_is_one_line(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        assert run(folder, "signs", stdout=full)[::2] == (
            2,
            "5 ≥ 10\nerror: No space left on device: standard output\n",
        )


def test_a_closed_stream_s_number_is_no_file_s(folder: Path) -> None:
    """Else what a library prints lands in the file that was opened next."""
    code, _, _ = run(folder, "opened", prefix=("sh", "-c", '"$@" >&- 2>&- <&-', "sh"))
    assert code == 0 and (folder / "opened").read_text() == "mine"


def test_ctrl_c_tidies_up_and_a_second_one_kills(folder: Path) -> None:
    for env, code in (({}, 130), ({"SLOW": "1"}, -signal.SIGINT)):
        process = start(folder, "wait", env=env)
        assert process.stdout and process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "tidying\n"
        if env:
            process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "" and process.returncode == code


def test_ctrl_c_during_imports_says_nothing(folder: Path) -> None:
    slow = folder / "probe_app.py"
    slow.write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = start(folder, "x")
    assert process.stdout and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_user_without_a_home_and_a_name(folder: Path) -> None:
    gone = {"HOME": "", "USER": "", "LOGNAME": ""}
    assert run(folder, "home", env=gone)[0] == 0
    # a number that no list has; it may read what root's interpreter consists of
    prefix = ("setpriv", "--reuid", "54321", "--clear-groups", "--inh-caps", "+dac_override", "--ambient-caps",
              "+dac_override")  # fmt: skip
    try:
        able = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        able = False
    if not able:
        pytest.skip("no right to become somebody else")
    assert run(folder, "home", env=gone, prefix=prefix) == (0, "/nonexistent user54321\n", "")


@pytest.mark.parametrize("name, package", [
    ("core.py", False), ("methods", True), ("tasks.py", False), ("numpy.py", False), ("random.py", False),
])  # fmt: skip
def test_a_file_of_the_working_folder_in_the_place_of_another(name: str, package: bool, tmp_path: Path) -> None:
    place = tmp_path / name
    if package:
        place.mkdir()
        place /= "__init__.py"
    place.write_text("mine = 1\n")
    done = subprocess.run([sys.executable, "-m", "harness.run", "--list"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    word = name.removesuffix(".py")
    assert done.stderr == (f"error: {tmp_path / name} is imported in the place of {word!r}: rename it, or run the "
                           "command in another folder\n")  # fmt: skip


def test_a_stream_without_a_buffer_stays_one(tmp_path: Path) -> None:
    """Containers and batch systems set PYTHONUNBUFFERED so that a kill loses nothing of what was printed."""
    code = ("import os, sys\nfrom core import streams\nstreams.make_steady()\n"
            "print('said', end='')\nos.kill(os.getpid(), 9)\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-u", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "said"
