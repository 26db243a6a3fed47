"""What the chapters read of each other; light, since the Snakefile imports it."""

from collections.abc import Iterable, Sequence

ONCE = {
    *("01_data", "03b_recipes", "04c_bits", "05b_heads", "05c_clock", "07_benchmark", "08_report"),
}
"""Chapters of which a study has one, on fold 0."""
MODELS_OF: dict[str, list[str]] = {
    "01_data": [],
    "02_teacher": ["01_data"],
    "04_quantization": ["02_teacher", "03_distillation"],
    "04b_qat": ["02_teacher", "03_distillation"],
    "07_benchmark": ["02_teacher", "03_distillation", "04_quantization", "04b_qat"],
    "08_report": [],
}
"""By chapter, those whose models (of chapter 1, sentences) it loads, if not the teacher alone."""
RESULTS_OF = {
    "03_distillation": ["03b_recipes"],
    "05b_heads": ["05_pruning"],
    "07_benchmark": ["05_pruning"],
    "07b_elsewhere": ["03_distillation", "04_quantization", "05_pruning"],
}
"""By chapter, those of which it reads results alone."""

TIMED = {"05c_clock", "07_benchmark"}
"""Chapters that measure latency, and need the machine for themselves."""

Job = tuple[str, int]  # a chapter on a fold


def jobs(chapters: Iterable[str], folds: Sequence[int]) -> list[Job]:
    """Each of ``chapters`` on every fold that it runs on."""
    return [(c, k) for c in chapters for k in ([0] if c in ONCE else folds)]


def models_of(chapter: str) -> list[str]:
    """Chapters whose models ``chapter`` loads."""
    return MODELS_OF.get(chapter, ["02_teacher"])


def upstream(chapter: str) -> list[str]:
    """Chapters that ``chapter`` reads on its fold."""
    return models_of(chapter) + RESULTS_OF.get(chapter, [])


def depth(chapter: str) -> int:
    """Chapters on the longest way to ``chapter``: more than for any that it reads."""
    return 1 + max(map(depth, upstream(chapter)), default=0)
