"""One list of packages, told three times; and what git keeps."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.lock").open()]
    pins = [line for line in lines if line]
    # Nothing but exact versions that every platform has: no index, no +cpu, no path.
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    return dict(pin.split("==") for pin in pins)


def requirements(project):
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for texts in [project["dependencies"], *extras] for text in texts]


def test_environment_has_no_second_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, pips = environment["dependencies"]
    assert pip == "pip"
    assert pips == {"pip": ["-c requirements.lock", "-e .[offline,dev]"]}
    assert re.fullmatch(r"python=3\.\d+", python)


def test_environment_python_is_allowed(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    version = environment["dependencies"][0].removeprefix("python=")
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_environment_installs_every_extra(project):
    assert set(project["optional-dependencies"]) == {"offline", "dev"}


def test_every_requirement_is_locked_within_its_range(project, lock):
    for requirement in requirements(project):
        pin = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"


def test_lock_is_closed(project, lock):
    """Whatever a locked and installed package asks for on every platform is locked too."""
    missing = set()
    for name in lock:
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform or Python
            continue
        for requirement in map(Requirement, wanted):
            if requirement.marker is None:
                pin = lock.get(canonicalize_name(requirement.name))
                if pin is None or not requirement.specifier.contains(Version(pin)):
                    missing.add(f"{name} wants {requirement}, locked is {pin}")
    assert not missing


def test_ranges_accept_colab(project):
    """Colab brings its own torch, transformers, NumPy and pandas: none may be replaced."""
    by_name = {requirement.name: requirement.specifier for requirement in requirements(project)}
    for name, versions in {
        "torch": ["2.6.0", "2.9.0+cu126", "2.13.0"],
        "transformers": ["5.0.0", "5.23.0"],
        "numpy": ["2.0.2"],
        "pandas": ["2.2.2", "3.1.1"],
        "scikit-learn": ["1.6.1"],
        "matplotlib": ["3.10.0"],
        "ipykernel": ["6.17.1"],
    }.items():
        assert all(by_name[name].contains(version) for version in versions), name


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout.split("\n")[:-1]


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


@needs_git
@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("lib/headcount/data.py", False),
        ("lib/headcount/study/run.py", False),
        ("notebooks/05_pruning.py", False),
        ("notebooks/profiles/offline.yaml", False),
        ("reports/minilm/notebooks/fold0/05_pruning.ipynb", False),
        ("reports/minilm/records/teacher.fold0.seed0.json", False),
        ("tests/data/example.csv", False),
        ("notebooks/05_pruning.ipynb", True),
        ("work/offline/results.csv", True),
        ("artifacts/offline/fold0/02_teacher.done", True),
        ("lib/headcount/__pycache__/data.cpython-311.pyc", True),
        (".venv/bin/python", True),
    ],
)
def test_gitignore(path, ignored):
    status, _ = git("check-ignore", "--no-index", "--quiet", path)
    assert (status == 0) == ignored


@needs_git
def test_notebooks_are_kept_as_sources_only():
    _, tracked = git("ls-files", "--cached", "--others", "--exclude-standard")
    assert not [p for p in tracked if p.endswith(".ipynb") and not p.startswith("reports/")]
    assert not [p for p in tracked if Path(p).suffix in {".safetensors", ".onnx", ".bin", ".pt"}]


@needs_git
def test_reports_stay_small():
    _, tracked = git("ls-files", "--cached", "--others", "--exclude-standard", "reports")
    assert sum((ROOT / path).stat().st_size for path in tracked if (ROOT / path).exists()) < 25e6


def test_make_help_explains_every_target():
    makefile = (ROOT / "Makefile").read_text()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = set(re.search(r"\.PHONY: (.*)", makefile)[1].split()) - {"system"}
    assert phony == {"help", "study", "test", "check", "report"}
    assert all(re.search(rf"^  {target} +\w", shown.stdout, re.MULTILINE) for target in phony)


def test_ci_runs_check_and_test_alone():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "set -e" in lines
    assert [line for line in lines if line.startswith("make")] == [
        "make check",
        "make test DATA=../shared/data",
    ]
