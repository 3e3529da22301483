"""Which device a lane of a language method computes on: of several GPUs one each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from threading import Lock

import torch


def found_devices() -> tuple[torch.device, ...]:
    """This machine's GPUs, or its CPU."""
    return tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count())) or (torch.device("cpu"),)


class Devices:
    """Devices that lanes share: each lane takes the one that the fewest others have, the first of equals."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._held = dict.fromkeys(devices, 0)
        self._lock = Lock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[torch.device]:
        with self._lock:
            device = min(self._held, key=lambda one: self._held[one])
            self._held[device] += 1
        try:
            with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
                yield device
        finally:
            with self._lock:
                self._held[device] -= 1
