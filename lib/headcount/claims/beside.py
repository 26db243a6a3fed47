"""Contrasts beside the claims: they help to read a verdict, and none rests on them."""

from typing import NamedTuple


class Question(NamedTuple):
    """A paired difference to be described: ``variant`` minus ``baseline``, and what differs."""

    variant: str
    baseline: str
    differs: str


TEACHING = tuple(
    Question(f"student-{variant}", base if base == "teacher" else f"student-{base}", differs)
    for variant, base, differs in (
        ("kd", "hard", "soft labels, random weights"),
        ("kd-init", "hard-init", "soft labels, teacher's layers"),
        ("smooth", "hard", "smoothed labels, random weights"),
        ("smooth-init", "hard-init", "smoothed labels, teacher's layers"),
        ("kd", "shuffled", "this sentence's advice, random weights"),
        ("kd-init", "shuffled-init", "this sentence's advice, teacher's layers"),
        ("shuffled", "smooth", "another's advice or smoothed labels, random weights"),
        ("shuffled-init", "smooth-init", "another's advice or smoothed labels, teacher's layers"),
        ("kd", "kd-no-t2", "T squared"),
        ("intermediate", "kd", "layer losses, the seed study's"),
        ("tinybert", "kd", "layer losses, TinyBERT's"),
        ("intermediate-tuned", "kd", "layer losses, tuned"),
        ("intermediate-tuned", "map-reversed", "layers mapped in order"),
        ("hard-scratch", "hard", "another shape, random weights"),
        ("hard-init", "hard-scratch", "the teacher's layers, hard labels"),
        ("small", "kd-init", "best recipe, against soft labels"),
        ("small", "hard-init", "best recipe, against hard labels"),
        ("kd-init", "teacher", "student-kd-init against the teacher"),
        ("small", "teacher", "student-small against the teacher"),
        ("tiny", "teacher", "student-tiny against the teacher"),
    )
)  #: Of chapter 3: what each way of teaching adds, and where its students stand.
