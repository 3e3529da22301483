"""A Ray cluster of several nodes on this machine, each in a network namespace of its own, with an address of its own.

They share the disk and nothing else that Ray knows of: they find and lose each other over the network.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000",
               "RAY_health_check_failure_threshold": "3"}  # fmt: skip


def possible() -> bool:
    """Whether this user may make network namespaces here."""
    if not shutil.which("ip"):
        return False
    name = f"try{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Node:
    """One of them; the first is the head."""

    name: str
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, *words: str) -> list[str]:
        """A command as it runs on this node."""
        return ["ip", "netns", "exec", self.name, *words]

    def pids(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        return [int(one) for one in found.split()]

    def workers(self) -> list[int]:
        """Those that carry out a piece: Ray names them by their task."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
                    found.append(pid)
        return found

    def kill(self) -> None:
        """-9, all of it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Nodes:
    """The cluster."""

    nodes: list[Node]
    folder: Path
    cores: Sequence[int] = ()  # of this machine, one for each node; none: all of them

    @property
    def address(self) -> str:
        return f"{self.nodes[0].address}:6379"

    def start(self, number: int, cpus: int = 1) -> None:
        """Starts the node of that number."""
        node = self.nodes[number]
        role = ["--head", "--port=6379"] if number == 0 else [f"--address={self.address}"]
        words = [str(Path(sys.executable).with_name("ray")), "start", *role, f"--node-ip-address={node.address}",
                 f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats",
                 "--block"]  # fmt: skip
        words += ["--include-dashboard=false", f"--temp-dir={self.folder}"] if number == 0 else []
        log = (self.folder / f"{node.name}.log").open("ab")
        environment = os.environ | ENVIRONMENT
        words = ["taskset", "-c", str(self.cores[number]), *words] if self.cores else words
        node.processes.append(subprocess.Popen(node.inside(*words), stdout=log, stderr=log, env=environment))

    def on_head(self, words: Sequence[str], environment: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
        """A command on the head."""
        return subprocess.Popen(self.nodes[0].inside(*words), env=environment | ENVIRONMENT, cwd=cwd, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def ready(self, count: int, patience: float = 90.0) -> None:
        """Waits until so many nodes are alive."""
        ask = f"import ray; ray.init('{self.address}'); print(sum(node['Alive'] for node in ray.nodes()))"
        over, said = time.monotonic() + patience, ""
        while time.monotonic() < over:
            process = self.on_head([sys.executable, "-c", ask], dict(os.environ), self.folder)
            said, why = process.communicate(timeout=60)
            if said.strip() == str(count):
                return
            time.sleep(1.0)
        raise TimeoutError(f"{said.strip() or why[-500:]} of {count} nodes")


@contextlib.contextmanager
def cluster(folder: Path, count: int, cores: Sequence[int] = ()) -> Iterator[Nodes]:
    """`count` nodes of a CPU each; `folder` is Ray's own and needs a short path (sockets); `cores`: see `Nodes`."""
    mark = secrets.token_hex(2)
    bridge, subnet = f"br{mark}", f"10.{77 + int(mark[:2], 16) % 100}.{int(mark[2:], 16)}"
    nodes = [Node(f"n{mark}{number}", f"{subnet}.{number + 1}") for number in range(count)]
    made = Nodes(nodes, folder, cores)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for number, node in enumerate(nodes):
            near, far = f"v{mark}{number}", f"w{mark}{number}"
            _ip("netns", "add", node.name)
            _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", node.name)
            _ip("link", "set", near, "master", bridge)
            _ip("link", "set", near, "up")
            _ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", far)
            _ip("-n", node.name, "link", "set", far, "up")
            _ip("-n", node.name, "link", "set", "lo", "up")
            _ip("-n", node.name, "route", "add", "default", "dev", far)
            made.start(number)
            made.ready(number + 1)  # one by one: names of sockets are drawn from the same folder
        yield made
    finally:
        for node in nodes:
            node.kill()
            for process in node.processes:
                process.wait(timeout=30)
            subprocess.run(["ip", "netns", "del", node.name], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)
