"""One study from beginning to end: check, run Snakemake, show where it is, publish.

``python -m headcount.study --help`` lists the commands. All paths are relative to the
repository's root, where the commands are run.
"""
