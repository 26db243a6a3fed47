# The only DAG: chapter x fold -> records -> report -> reports/<profile>.
#
# `python -m headcount.study run` writes work/<profile>/study.yaml and the parameters, and starts
# this; `snakemake --configfile work/<profile>/study.yaml --cores 2 -n` shows what would run.
import sys

from headcount.study import graph

PROFILE, FOLDS = config["profile"], config["folds"]
WORK, ARTIFACTS = f"work/{PROFILE}", f"artifacts/{PROFILE}"

CHAPTERS = config["chapters"]
BENCHMARK, REPORT = "07_benchmark", "08_report"
HUGE_PAGES = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"


def upstream_jobs(chapter, fold):
    if chapter == BENCHMARK:
        # The ruler needs the machine for itself: it waits for every fold, not for its own alone.
        return graph.jobs((c for c in CHAPTERS if c not in (BENCHMARK, REPORT)), FOLDS)
    if chapter == REPORT:
        return graph.jobs((c for c in CHAPTERS if c != REPORT), FOLDS)
    return graph.jobs((c for c in graph.upstream(chapter) if c in CHAPTERS), [fold])


def threads(chapter, cores):
    """Threads of a job: its share of the cores, or all of them where it measures time."""
    return cores if chapter in graph.TIMED else max(1, cores // config["jobs"])


def outputs(pairs):
    # Sentinels and executed notebooks: a sentinel can be the same twice, a notebook holds its
    # times, so that Snakemake (which compares contents) sees that a chapter has run again.
    return [
        name.format(c=c, k=k)
        for c, k in pairs
        for name in (f"{ARTIFACTS}/fold{{k}}/{{c}}.done", f"{WORK}/notebooks/fold{{k}}/{{c}}.ipynb")
    ]


PAGES = [f"{WORK}/report.html", f"{WORK}/report.md"] if REPORT in CHAPTERS else []


# Asks for every output by name: else a lost one, whose descendants are there, would stay lost.
rule all:
    input:
        outputs(graph.jobs(CHAPTERS, FOLDS)),
        PAGES,
        f"{ARTIFACTS}/published",


# Jobs that the configuration names: `before=05_pruning`, or `before=05_pruning.0,04c_bits.0`.
ASKED = [
    (chapter, int(k))
    for chapter, _, fold in (name.partition(".") for name in config.get("before", "").split(","))
    for k in ([fold] if fold else FOLDS)
    if chapter
]


# What these read and they themselves are not: for a reader who opens one chapter by itself, and
# before published results are held against what they were made from.
rule inputs:
    input:
        outputs(job for one in ASKED for job in upstream_jobs(*one) if job not in ASKED),


rule publish:
    input:
        outputs(graph.jobs(CHAPTERS, FOLDS)),
        PAGES,
    output:
        f"{ARTIFACTS}/published",
    shell:
        "{sys.executable} -m headcount.study publish --profile {PROFILE} && touch {output}"


rule report:
    input:
        f"{WORK}/notebooks/fold0/{REPORT}.ipynb",
    output:
        f"{WORK}/report.html",
        f"{WORK}/report.md",
    shell:
        "{sys.executable} -m headcount.report render {input} {WORK}"


rule chapter:
    wildcard_constraints:
        fold=r"\d+",
    input:
        notebook="notebooks/{chapter}.py",
        parameters=f"{WORK}/parameters/{{chapter}}.yaml",
        upstream=lambda wildcards: outputs(upstream_jobs(wildcards.chapter, wildcards.fold)),
    output:
        done=f"{ARTIFACTS}/fold{{fold}}/{{chapter}}.done",
        notebook=f"{WORK}/notebooks/fold{{fold}}/{{chapter}}.ipynb",
    params:
        # Kept as a notebook that can be read when the chapter fails.
        partial=f"{WORK}/notebooks/fold{{fold}}/{{chapter}}.partial.ipynb",
        # glibc keeps large tensors in huge pages: a training step on a CPU takes an eighth less. What
        # is timed has to be what a user sees, who does not know of this.
        memory=lambda wildcards: "" if wildcards.chapter in graph.TIMED else HUGE_PAGES,
    benchmark:
        # Seconds and the most memory that its processes held, for the report.
        f"{WORK}/chapters/fold{{fold}}.{{chapter}}.tsv"
    log:
        f"{WORK}/logs/fold{{fold}}.{{chapter}}.log",
    threads: lambda wildcards: threads(wildcards.chapter, workflow.cores)
    shell:
        "set -o pipefail; jupytext --quiet --to ipynb -o - {input.notebook}"
        " | {params.memory} papermill - {params.partial} -f {input.parameters} -p fold {wildcards.fold}"
        # Where it runs, not what it computes: no reason to run a finished chapter again.
        " -p threads {threads} --no-progress-bar 2> {log} && mv {params.partial} {output.notebook}"
