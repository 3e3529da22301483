"""How answers are read: every usual form, and nothing that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.judges.verdicts import read_choice
from tasks.language.core import UNFINISHED


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("A names the cause.\nVerdict: A", "a"), ("Verdict: B", "b"), ("**Verdict: tie**", "tie"), ("b", None),
        ("It is close.\n\nVerdict: Summary B.\n", "b"), ("VERDICT - TIE", "tie"), ("Verdict: A\nVerdict: A", "a"),
        ("Verdict: A or B", None), ("A is better", None), ("", None), ("Verdict: a", "a"),
        ("The post says Verdict: A, but no.", None), ("Verdict:\nA", None),
        ("Summary A:\nNames the cause.", None), ("**A**\nIt is short, but", None), ("Response B\nis a refusal", None),
        ("Summary A:\nNames it.\n\n**Summary B**\nIs vague.\n\nVerdict: A", "a"),
        ("Final verdict: A", "a"), ("So B is vague.\n### Final Verdict: **B**", "b"), ("My verdict is: B", "b"),
        ("The final verdict is A.", "a"), ("__Verdict: A__", "a"), ("Verdict: a tie", "tie"), ("Answer: B", "b"),
        ("**Answer:** **B**", "b"), ("Winner: Summary A", "a"), ("Therefore, the final answer is B.", "b"),
        ('{"verdict": "A"}', "a"), ("<verdict>A</verdict>", "a"), ("[[B]]", "b"), ("I prefer [[A]].", "a"),
        (r"So \boxed{A}.", "a"), (r"$\boxed{\text{B}}$", "b"), (r"\boxed{\textbf{Verdict: A}}", "a"),
        (r"\boxed{\mathrm{tie}}", "tie"), (r"Therefore, the final answer is: \boxed{B}", "b"),
        (r"\boxed{A or B}", None), (r"\boxed{42}", None), ("It is clear.\n**B**", "b"), ("**A**\n\n**B**", None),
        ("Answer A:", None), ("The answer is a\nclear win for B.", None), ("Verdict: a\nclear win for B", None),
        ("<think>Verdict: A</think>\nVerdict: B", "b"), ("Verdict: A\n</think>\nVerdict: B", "b"),
        ("<think>Verdict: A", None), (f"**A**{UNFINISHED}", None), (f"It is so.\nVerdict: A{UNFINISHED}", None),
        (f"Verdict: A\nIt is short and{UNFINISHED}", "a"), (f"Verdict: A\nFinal verdict: B{UNFINISHED}", None),
        (f"The answer is a{UNFINISHED}", None), (f"The winner is a\n{UNFINISHED}", None), ("The answer is a …", None),
        (f"[[A]]{UNFINISHED}", None), ("### Verdict\n**A**", "a"), ("Verdict: A\r\n", "a"), ("Verdict = B", "b"),
        ("\\[\n\\boxed{A}\n\\]", "a"), ("<answer>\nB\n</answer>", "b"),
        ("I end with one of\n- Verdict: A\n- Verdict: B\n- Verdict: tie", None), ("Verdict: A\nVerdict: B", None),
        ("[[A]] if A is better, [[B]] if B is", None), ("Verdict: A\n[[B]]", None),
    ],
)  # fmt: skip
def test_answers_are_read_strictly(answer: str, choice: str | None) -> None:
    assert read_choice(answer) == choice


@pytest.mark.parametrize(
    "answer",
    [
        "Summary A merely says [[A]] and nothing else.\nVerdict: Summary B is better",
        'Summary A only says "<answer>A</answer>".\nVerdict: B (clearly)',
        "A writes \\boxed{A}; I prefer the other.\nVerdict: B, narrowly",
        "Text A says:\n> Verdict: A\nBut I judge on content.\nVerdict: Summary B wins",
        "Text A says:\n> Verdict: A\nBut I judge on content, and B wins.",
        "[[A]] would be wrong; Verdict: B", "I would not say [[A]].", "I prefer [[B]] to [[A]]", "[[A]]\nB is better.",
        "Verdict: A\nFinal verdict: on reflection, B", "<verdict>A</verdict> says A, but B it is",
    ],
)  # fmt: skip
def test_what_an_answer_quotes_or_takes_back_is_no_verdict(answer: str) -> None:
    assert read_choice(answer) is None


@pytest.mark.parametrize("denial", ["≠ {}", "¬{}", "!{}", "~~{}~~", "❌ {}", "{} ✗", "{} ❌", "!= {}", "not {}", "{}?"])
@pytest.mark.parametrize("form", ["Verdict: {}", "Winner: {}", "[[{}]]", r"\boxed{{{}}}", "**{}**"])
def test_a_sign_that_denies_is_no_decoration(form: str, denial: str) -> None:
    assert read_choice(form.format("A")) == "a"
    assert read_choice(form.format(denial.format("A"))) is None
    assert read_choice(denial.format(form.format("A"))) is None


@given(st.sampled_from("*_#>\"':.-`"), st.integers(1, 3))
def test_decoration_is_read_over(sign: str, times: int) -> None:
    assert read_choice(f"Verdict: {sign * times}A{sign * times}") == "a"


def test_thoughts_are_taken_out_before_the_end_is_cut() -> None:
    assert read_choice("<think>" + "x " * 20_000 + "\nVerdict: A\nhmm wait, it is") is None
    assert read_choice("<think>" + "x " * 20_000 + "\nVerdict: A\n</think>\nVerdict: B") == "b"
    assert read_choice("It says " + "x " * 20_000 + "Verdict: A") is None


FORMS = ("Verdict: {}", "Final verdict: {}", "**Verdict**: **{}**", "[[{}]]", "Answer: {}", "The winner is {}",
         r"\boxed{{{}}}", r"$\boxed{{\text{{{}}}}}$", "<verdict>{}</verdict>", "**{}**")  # fmt: skip
CHOICES = st.sampled_from(["A", "B", "tie"])
TALK = st.lists(
    st.sampled_from(["A names it.", "Summary B is vague", "**A**: short", "It is a tie, nearly.", "1. Response A", ""])
).map("\n".join)


@given(TALK, st.sampled_from(FORMS), CHOICES)
def test_every_form_is_read_after_any_talk(talk: str, form: str, choice: str) -> None:
    assert read_choice(f"{talk}\n{form.format(choice)}\n") == choice.lower()


@given(TALK, st.sampled_from(FORMS), st.permutations(["A", "B", "tie"]), st.sampled_from([" or ", ", ", "/", " and "]))
def test_a_statement_that_names_both_is_no_verdict(talk: str, form: str, names: list[str], between: str) -> None:
    assert read_choice(f"{talk}\n{form.format(between.join(names[:2]))}") is None


@given(TALK, st.sampled_from(FORMS[:-1]), st.sampled_from(FORMS[:-1]), st.permutations(["A", "B", "tie"]))
def test_statements_that_disagree_are_no_verdict(talk: str, one: str, other: str, names: list[str]) -> None:
    """**A** alone is the weakest form, which any other overrules."""
    assert read_choice(f"{one.format(names[0])}\n{talk}\n{other.format(names[1])}") is None


@given(st.text(alphabet="ABab tie.,:;-\n\"'()"), TALK)
def test_letters_alone_are_no_verdict(text: str, talk: str) -> None:
    assert read_choice(text + talk) is None


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert read_choice(text) in (None, "a", "b", "tie")


def test_a_long_row_of_signs_takes_no_time() -> None:
    """A server that means harm: each of these would take hours if signs were matched without bound."""
    for sign in (":", "*", "_ ", "\\boxed{", "[[", "<think>", "answer:"):
        assert read_choice(f"answer{sign * 200_000}") is None
