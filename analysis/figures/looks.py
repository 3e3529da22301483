"""How each method is drawn: a colour for its family, and a line style and a marker that it shares with none.

A method's look never depends on which others are shown. Families have the hues of Okabe & Ito 2008 (jfly.uni-koeln.de/
color), which the colour-blind tell apart, and five more; line and marker tell any two methods apart, as they do in
grey print.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.colors import to_rgb

Color = tuple[float, float, float]
Dashes = str | tuple[float, tuple[float, ...]]

BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY, GREY, INK = (
    "#0072b2", "#d55e00", "#009e73", "#b8609a", "#b97f00", "#3fa0dd", "#757575", "#2b2b2b",
)  # fmt: skip
"""Okabe & Ito's, orange, sky blue and purple darkened for thin lines on white, and two greys."""
WINE, BROWN, TEAL, OLIVE, SLATE = "#7a1f3d", "#7d4a2b", "#006d77", "#6f7d00", "#47598f"
"""Darker ones, for families beyond those."""

SOLID, DASHED, DOTTED, DASHDOT = "-", "--", ":", "-."
LONG: Dashes = (0.0, (7.0, 1.5))
TWICE: Dashes = (0.0, (4.0, 1.2, 1.0, 1.2, 1.0, 1.2))
LINES: tuple[Dashes, ...] = (SOLID, DASHED, DOTTED, DASHDOT, LONG, TWICE)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h", "p", "d", "<", ">", "*", "8")


class Look(NamedTuple):
    """How a method is drawn."""

    color: Color
    marker: str
    line: Dashes


def _family(color: str, **members: tuple[str, Dashes]) -> dict[str, Look]:
    """Each with a tone of its own: the colour itself, a lighter one, a darker one."""
    hue = to_rgb(color)
    light, dark = tuple(0.68 * c + 0.32 for c in hue), tuple(0.6 * c for c in hue)
    tones = (hue, light, dark)
    return {name: Look(tones[i % 3], marker, line) for i, (name, (marker, line)) in enumerate(members.items())}  # type: ignore[arg-type]


KNOWN: dict[str, Look] = {
    **_family(BLUE, vgf=("o", SOLID), avgf=("s", DASHED), vgf_qgf=("d", DASHDOT), qgf=("p", DOTTED)),  # gradient flow
    **_family(VERMILION, fql=("D", SOLID), ifql=("X", DASHED), floq=("8", TWICE)),  # flow policies
    **_family(WINE, qam=("h", SOLID), qam_f=("v", DASHDOT), qam_e=("<", LONG)),  # adjoint matching
    **_family(BROWN, fedit=("d", SOLID), dsrl=(">", DASHED)),  # a policy over a flow's actions, or over its noise
    **_family(TEAL, cfgrl=("*", SOLID), rql=("8", DASHED), fan=("p", DASHDOT),
              robust_q=("s", TWICE)),  # networks conditioned on more
    **_family(GREEN, iql=("P", SOLID), ivr=("<", DASHED), sql=(">", DOTTED), eql=("8", DASHDOT)),  # in-sample
    **_family(PURPLE, td3bc=("v", SOLID), rebrac=("h", DASHED), fbrac=("*", DASHDOT)),  # TD3's kin
    **_family(AMBER, idql=("^", SOLID), sfbc=("d", DASHED), diffusion_ql=("X", DASHDOT)),  # diffusion
    **_family(OLIVE, qsm=("v", DOTTED), dac=("P", LONG)),  # diffusion matched to the slope of Q
    **_family(GREY, bc=("X", SOLID), bc_gaussian=("s", DOTTED), sft=("s", SOLID)),  # imitation
    **_family(INK, best_of_n=("^", DASHED), soft_best_of_n=("v", DOTTED), optimum=("*", SOLID)),
    **_family(SLATE, qc=("D", DASHDOT), qc_fql=("o", LONG)),  # chunks of actions
    **_family(SKY, dpo=("D", SOLID), ppo=("P", DASHDOT), simpo=("o", DASHED)),  # language models that are trained
    **_family(TEAL, rloo=("X", SOLID), grpo=("h", DASHED)),
    **_family(VERMILION, hotflip=("<", SOLID), random_swaps=("8", DASHED), likely_swaps=("H", LONG)),
    **_family(AMBER, quest=("d", DOTTED), args=("p", DASHDOT)),
}  # fmt: skip


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """Row label -> Look, given row label -> method.

    A method's look never depends on the others; an unknown one has its own by hash, moved on only if taken in this
    figure. Of several runs of one method the one with the shortest label has its look; the others share colour and
    marker and differ in the line.
    """
    base: dict[str, Look] = {}
    for method in sorted(set(methods.values()), key=lambda name: (name not in KNOWN, name)):
        base[method] = KNOWN.get(method) or _free(method, set(base.values()))
    found: dict[str, Look] = {}
    for label in sorted(methods, key=lambda label: (len(label), label)):
        own = base[methods[label]]
        first = LINES.index(own.line)
        twins = sum(methods[other] == methods[label] for other in found)
        found[label] = own._replace(line=LINES[(first + twins) % len(LINES)])
    return found


def _free(method: str, taken: set[Look]) -> Look:
    """A look by the name's hash, which no known method and none of `taken` has."""
    every = [Look(to_rgb(color), marker, line) for line in LINES for marker in MARKERS for color in
             (BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY, GREY, INK, WINE, BROWN, TEAL, OLIVE, SLATE)]  # fmt: skip
    start, used = zlib.crc32(method.encode()), taken | set(KNOWN.values())
    return next((look for i in range(len(every)) if (look := every[(start + i) % len(every)]) not in used), every[0])


def shade(color: Color, index: int, count: int) -> Color:
    """The index-th of `count` shades of a colour, from light to dark; the colour itself if count is 1."""
    if count == 1:
        return color
    t = index / (count - 1)
    light, dark = max(0.0, 0.55 - 0.8 * t), max(0.0, 1.3 * t - 0.85)
    red, green, blue = ((c * (1 - light) + light) * (1 - dark) for c in color)
    return red, green, blue
