"""What whoever compares with published numbers must know of them."""

from __future__ import annotations

_QAM = (
    "QAM-E is QAM on scene and cube-double, QAM-F is QAM on puzzle-3x3 and cube-double (a knob at 0): what differs "
    "between them there are seeds alone.",
    "QAM's columns are no seeds across tasks or methods: nothing of them can be paired.",
)
PITFALLS = {"qam": _QAM, "qam_online": (*_QAM, "RLPD has no offline updates before its 500K online steps.")}
"""Published table -> lines."""
