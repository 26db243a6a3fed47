"""The report's tables: frames of text, ready to be shown, from frames of numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headcount import bench, claims, plots, records, stats
from headcount.report.study import SOURCES, Study

MISSING = "–"
# The `runtime` of records that no runtime made: rounding was imitated in FP32 arithmetic.
SIMULATED = "simulated"
TORCH_TEACHER, ONNX_TEACHER = "teacher", "teacher-onnx"


def markdown(table: pd.DataFrame) -> str:
    """A frame as a Markdown table: columns of numbers to the right, names of variants as code.

    What stands after a name, such as `marked`'s mark, stays text.
    """
    columns = {}
    for name in table.columns:
        cells = [str(value).replace("|", "\\|") for value in table[name]]
        numbers = all(re.match(r"[-+−–]?\[?[-+−–]?\d|–", cell) for cell in cells)
        if name in ("variant", "minus", "chapter"):
            cells = [re.sub(r"^`?([\w-]+)`?", r"`\1`", cell) for cell in cells]
            numbers = False
        columns[name] = ["--:" if numbers else ":--", *cells]
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ordered(frame: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column `variant`, by chapter; in a chapter, simple baselines first."""
    chapters = results.groupby("variant")["chapter"].min()

    def place(variant: str) -> tuple[str, bool, str]:
        return chapters.get(variant, "~"), plots.family(variant) != "baseline", variant

    key = frame["variant"].map(place)
    return frame.loc[key.sort_values(kind="stable").index].reset_index(drop=True)


def scores(pooled: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Macro-F1, the paired difference to the baseline, and how both spread over the folds."""
    spread = fold_spread(results)
    names = marked(pooled["variant"], results)
    rows = []
    for line, name in zip(pooled.itertuples(), names, strict=True):
        compared = not pd.isna(line.diff)
        over = spread.loc[line.variant]
        rows.append(
            {
                "variant": name,
                "macro-F1": score(line.macro_f1, line.ci_low, line.ci_high),
                "folds alone": _range(over["low"], over["high"], "{:.3f}".format, over["folds"]),
                "minus": line.baseline if compared else MISSING,
                "difference, points": points(line.diff, line.diff_low, line.diff_high),
                "Holm p": p_value(line.p_holm),
                "folds alone, points": _range(
                    over["diff_low"], over["diff_high"], _signed_points, over["folds"]
                ),
                "rows": f"{line.n:,}",
            }
        )
    several = spread["folds"].max() > 1
    return pd.DataFrame(rows).drop(
        columns=[] if several else ["folds alone", "folds alone, points"]
    )


def fold_spread(results: pd.DataFrame) -> pd.DataFrame:
    """For each variant, over folds (seeds averaged): low, high of macro-F1 and of the difference
    to its baseline, and the number of folds."""
    tested = results.query("split == 'test'")
    by_fold = tested.groupby(["variant", "fold"])["macro_f1"].mean()
    rows = {}
    for variant, group in tested.groupby("variant"):
        own = by_fold.loc[variant]
        row = {"low": own.min(), "high": own.max(), "folds": len(own)}
        baseline = group["baseline"].iloc[0]
        if isinstance(baseline, str) and baseline in by_fold.index.get_level_values(0):
            differences = (own - by_fold.loc[baseline]).dropna()
            row |= {"diff_low": differences.min(), "diff_high": differences.max()}
        rows[variant] = row
    columns = ["low", "high", "folds", "diff_low", "diff_high"]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)


def by_fold(results: pd.DataFrame) -> pd.DataFrame:
    """Macro-F1 of each variant in each fold, mean over seeds."""
    tested = results.query("split == 'test'")
    table = tested.pivot_table(index="variant", columns="fold", values="macro_f1", aggfunc="mean")
    seeds = tested.groupby("variant")["seed"].nunique()
    text = table.map("{:.3f}".format, na_action="ignore").fillna(MISSING)
    text.columns = [f"fold {fold}" for fold in text.columns]
    return ordered(text.assign(seeds=seeds).reset_index(), results)


def contrasts(judged: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The claims whose contrast has run, with their verdicts."""
    rows = []
    for line in judged.dropna(subset="diff").itertuples():
        verdict = f"**{line.verdict}**{study.mark}"
        if line.verdict == "undecided" and line.detectable:
            seen = difference(line.unit, line.detectable).lstrip("+")
            verdict += f"; {seen} could have been seen"
        by_sign = not line.margin and (line.diff_low > 0 or line.diff_high < 0)
        if line.verdict != "undecided" and by_sign and line.p_holm > 0.05:
            verdict += "; not after Holm's correction"
        if line.seeds < line.seeds_needed:
            verdict += f"; {line.seeds:.0f} of {line.seeds_needed} seeds"
        rows.append(
            {
                "claim": f"**{line.id}** {line.text}",
                "verdict": verdict,
                "difference [95 %]": difference(
                    line.unit, line.diff, line.diff_low, line.diff_high
                ),
                "Holm p": p_value(line.p_holm),
                "contrast": _name(line.variant) + _minus(line.baseline),
                "margin": _margin(line),
                "right alone": MISSING
                if pd.isna(line.only_variant)
                else f"{line.only_variant:.0f} : {line.only_baseline:.0f}",
            }
        )
    return pd.DataFrame(rows)


def beside(
    folder: Path,
    results: pd.DataFrame,
    questions: Iterable[claims.Question],
    *,
    draws: int = stats.DRAWS,
) -> pd.DataFrame:
    """Paired differences in macro-F1 that no claim asks for, pooled over the folds of both.

    Columns: what differs, variant, minus, difference, rows. Those that have not run are left out.
    """
    rows = []
    for variant, baseline, differs in questions:
        if shared_folds(results, variant, baseline):
            d = records.contrast(folder, variant, baseline, draws=draws)
            shown = points(d.diff, d.low, d.high)
            rows.append((differs, variant, baseline, shown, f"{d.n:,}"))
    columns = ["what differs", "variant", "minus", "difference, points", "rows"]
    return pd.DataFrame(rows, columns=columns)


def difference(unit: str, value: float, *bounds: float, digits: int | None = None) -> str:
    """A difference in its unit, with its interval if `bounds` has one."""
    scale = claims.SCALES[unit]
    digits = digits or (1 if scale == 100 else 3)
    texts = [_signed(scale * x, digits) for x in (value, *bounds)]
    interval = f" [{', '.join(texts[1:])}]" if bounds else ""
    return f"{texts[0]}{interval} {unit}"


def _name(compared: str) -> str:
    """A variant as code; what a sweep compares is words."""
    return compared if " " in compared else f"`{compared}`"


def _minus(baseline: str) -> str:
    """Of a contrast; a finding that is no difference is recorded against "none"."""
    return "" if baseline == "none" else f" minus {_name(baseline)}"


def _margin(line: Any) -> str:
    told = difference(line.unit, line.margin) if line.margin else "0"
    if line.margin and claims.BY_ID[line.id].side == "within":
        told = f"±{told[1:]}"
    return (
        told if pd.isna(line.claimed) else f"{told}; {difference(line.unit, line.claimed)} claimed"
    )


def open_claims(judged: pd.DataFrame) -> str:
    """The claims that were not put to the test, as a Markdown list."""
    waiting = judged[judged["verdict"] == claims.NOT_RUN]
    return "\n".join(f"- **{row.id}** {row.text}" for row in waiting.itertuples())


def simulated(results: pd.DataFrame) -> set[str]:
    """Variants that no runtime here ran: simulated answers, a computed size, and no file."""
    return set(results.loc[results["runtime"] == SIMULATED, "variant"])


def marked(variants: pd.Series, results: pd.DataFrame) -> pd.Series:
    """Names, with a mark after those that are `simulated`."""
    mark = f" ({SIMULATED})"
    return variants.where(~variants.isin(simulated(results)), variants + mark)


def sizes(results: pd.DataFrame) -> pd.DataFrame:
    """What the models of fold 0 hold, beside the teacher."""
    rows = shipped(results)
    teacher = rows[rows["variant"] == TORCH_TEACHER]
    whole = teacher["size_mb"].iloc[0] if len(teacher) else None
    table = pd.DataFrame({"variant": rows["variant"]})
    table["MB"] = _text(rows["size_mb"], "{:.1f}")
    table.loc[rows["variant"].isin(simulated(results)), "MB"] += " computed"
    if whole is not None:
        table["times smaller"] = _text(whole / rows["size_mb"], "{:.2f}")
    table["parameters, M"] = _text(rows["params"] / 1e6, "{:.2f}")
    table["of them not 0"] = _text(100 * rows["nonzero_params"] / rows["params"], "{:.1f} %")
    heads = zip(rows["heads_alive"], rows["heads_total"], strict=True)
    table["heads"] = [MISSING if pd.isna(a) else f"{a} of {b}" for a, b in heads]
    table["layers"] = _text(rows["layers"], "{:.0f}")
    table["MACs, M"] = _text(rows["macs"] / 1e6, "{:,.0f}")
    table = ordered(table, results)
    return table.assign(variant=marked(table["variant"], results))


def speeds(measures: pd.DataFrame) -> dict[str, pd.Series]:
    """By FP32 teacher that was measured: how many times as fast as it each variant is.

    Ratios of median latencies of one run, one sentence at a time at its own length.
    """
    return {
        teacher: bench.ratios(measures, [teacher]).set_index("variant")[f"latency_vs_{teacher}"]
        for teacher in (TORCH_TEACHER, ONNX_TEACHER)
        if teacher in set(measures["variant"])
    }


def latencies(measures: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """The ruler's readings, with ratios to the FP32 teacher in torch and in ONNX Runtime."""
    references = [
        name for name in (TORCH_TEACHER, ONNX_TEACHER) if name in set(measures["variant"])
    ]
    ratios = bench.ratios(measures, references).set_index("variant")
    rows = measures.set_index("variant")
    table = pd.DataFrame({"runtime": rows["runtime"]})
    for name in references:
        where = "torch" if name == TORCH_TEACHER else "ONNX Runtime"
        table[f"faster than teacher in {where}"] = _text(ratios[f"latency_vs_{name}"], "{:.2f} ×")
    for name in references[:1]:
        table["the same, padded to 128"] = _text(ratios[f"latency128_vs_{name}"], "{:.2f} ×")
    table["median, ms"] = _text(rows["latency_ms_p50"], "{:.2f}")
    table["p95, ms"] = _text(rows["latency_ms_p95"], "{:.2f}")
    table["p99, ms"] = _text(rows["latency_ms_p99"], "{:.2f}")
    table["sentences/s, batch 32"] = _text(rows["throughput_sps"], "{:,.0f}")
    table["peak memory, MB"] = _text(rows["peak_rss_mb"], "{:,.0f}")
    table["timed"] = _text(rows["timed"], "{:.0f}")
    return ordered(table.reset_index(), results)


def by_class(folder: Path, variants: Sequence[str]) -> pd.DataFrame:
    """Pooled scores of each class, accuracy, and calibration error."""
    rows = []
    for variant in variants:
        found = records.predictions(folder, variant)
        found_scores = records.scores(
            found["label"].to_numpy(), found[records.PROBABILITIES].to_numpy(dtype=float)
        )
        names = {
            "F1 negative": "f1_negative", "F1 neutral": "f1_neutral", "F1 positive": "f1_positive",
            "accuracy": "accuracy", "ECE": "ece",
        }  # fmt: skip
        row = {"variant": variant} | {k: f"{found_scores[v]:.3f}" for k, v in names.items()}
        rows.append(row | {"rows": f"{len(found):,}"})
    return pd.DataFrame(rows)


def by_source(folder: Path, variants: Sequence[str]) -> pd.DataFrame:
    """Pooled macro-F1 on the sentences of each source."""
    rows = []
    for variant in variants:
        found = records.predictions(folder, variant)
        guess = found[records.PROBABILITIES].to_numpy().argmax(1)
        row = {"variant": variant}
        for source, part in found.assign(guess=guess).groupby("source"):
            name = f"{SOURCES.get(source, source)} ({part['id'].nunique():,})"
            row[name] = f"{stats.macro_f1(part['label'], part['guess']):.3f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna(MISSING)


def costs(results: pd.DataFrame) -> pd.DataFrame:
    """What training took, a fold, mean over folds and seeds; variants that were not trained out."""
    trained = results.dropna(subset="train_seconds")
    means = trained.groupby("variant")[["steps", "train_seconds"]].mean()
    devices = trained.groupby("variant")["device"].agg(lambda names: ", ".join(sorted(set(names))))
    table = pd.DataFrame(
        {
            "optimiser steps": _text(means["steps"], "{:,.0f}"),
            "seconds": _text(means["train_seconds"], "{:,.0f}"),
            "device": devices,
        }
    )
    return ordered(table.reset_index(), results)


def chapters(folder: Path) -> pd.DataFrame:
    """Wall time and memory of each chapter's last run, as Snakemake measured them.

    Memory is the most that the chapter's processes held at once (resident, seen every 30 s).
    """
    runs = [
        pd.read_csv(path, sep="\t").assign(chapter=path.stem.split(".")[1])
        for path in sorted((folder / "chapters").glob("*.tsv"))
    ]
    if not runs:
        return pd.DataFrame(columns=["chapter"])
    table = pd.concat(runs)
    table["max_rss"] = pd.to_numeric(table["max_rss"], errors="coerce")  # NA where it was too short
    by_chapter = table.groupby("chapter")
    return pd.DataFrame(
        {
            "folds": by_chapter.size(),
            "minutes a fold": _text(by_chapter["s"].mean() / 60, "{:.1f}"),
            "peak memory, GB": _text(by_chapter["max_rss"].max() * 2**20 / 1e9, "{:.1f}"),
        }
    ).reset_index()


def provenance(study: Study) -> pd.DataFrame:
    """Where the records come from: what differs among them is listed, not averaged."""

    def all_of(read) -> str:
        return ", ".join(sorted({str(value) for r in study.records if (value := read(r))}))

    rows = {
        "commits": all_of(lambda r: _short(r.provenance.commit)),
        "made": all_of(lambda r: r.provenance.created.date().isoformat()),
        "devices": all_of(lambda r: r.device),
        "processor": all_of(lambda r: r.provenance.cpu),
        "its instruction sets": all_of(lambda r: " ".join(r.provenance.cpu_flags)),
        "threads": all_of(lambda r: r.provenance.threads),
        "training precision": all_of(lambda r: r.provenance.config.get("training_precision")),
        "data, SHA-256": all_of(lambda r: r.provenance.data_sha256[:12]),
    }
    for name in sorted({name for r in study.records for name in r.provenance.versions}):
        rows[name] = all_of(lambda r, name=name: r.provenance.versions.get(name))
    return pd.DataFrame({"what": list(rows), "value": list(rows.values())})


def files(folder: Path) -> str:
    """Links to the executed chapters of fold 0 and to what they drew and counted, in Markdown.

    Chapter 8's own pictures are on the page already.
    """
    lines = []
    for notebook in sorted((folder / "notebooks" / "fold0").glob("[0-9]*.ipynb")):
        if notebook.name.endswith(".partial.ipynb") or notebook.stem == "08_report":
            continue
        kept = [
            _link(path, notebook.stem, folder)
            for kind in ("figures/fold0/*.png", "tables/fold0/*.csv*")
            for path in sorted(folder.glob(kind))
            if path.name.startswith(f"{notebook.stem}-")
        ]
        link = f"- [chapter {notebook.stem}](notebooks/fold0/{notebook.name})"
        lines.append(link + (f": {', '.join(kept)}" if kept else ""))
    return "\n".join(lines)


def p_value(p: float) -> str:
    """A p as text; 10,000 permutations cannot tell smaller ones than 0.0001 apart."""
    if pd.isna(p):
        return MISSING
    return f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def score(value: float, low: float, high: float) -> str:
    """A score with its interval."""
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def points(value: float, low: float, high: float) -> str:
    """A difference in fractions as points with its interval."""
    if pd.isna(value):
        return MISSING
    return difference("points", value, low, high).removesuffix(" points")


def shipped(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of fold 0 with a size, the first seed of each variant."""
    rows = results.query("fold == 0 and split == 'test'").dropna(subset=["size_mb"])
    return rows.sort_values("seed").drop_duplicates("variant")


def shared_folds(results: pd.DataFrame, *variants: str) -> list[int]:
    """Folds in which all of `variants` were tested."""
    tested = results.query("split == 'test'").groupby("variant")["fold"].agg(set)
    return sorted(set.intersection(*(tested.get(variant, set()) for variant in variants)))


def _signed(value: float, digits: int = 1) -> str:
    """A number with a sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not text.strip("+−0.") else text


def _signed_points(fraction: float) -> str:
    return _signed(100 * fraction)


def _range(low: float, high: float, form: Callable[[float], str], folds: float) -> str:
    return MISSING if folds < 2 or pd.isna(low) else f"{form(low)} to {form(high)}"


def _text(values: pd.Series, form: str) -> pd.Series:
    return values.map(lambda value: MISSING if pd.isna(value) else form.format(value))


def _short(commit: str) -> str:
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")


def _link(path: Path, chapter: str, folder: Path) -> str:
    return f"[{path.stem.removeprefix(f'{chapter}-')}]({path.relative_to(folder).as_posix()})"
