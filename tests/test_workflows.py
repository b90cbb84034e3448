"""The workflows: linted, with no more rights than they use, and calling what exists here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tools.colab_pins import PINS, update, versions

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ALLOWED = {  # workflow, job: permissions
    ("test", "test"): {"contents": "read"},
    ("publish", "test"): {"contents": "read"},
    ("publish", "home"): {"contents": "read"},
    ("publish", "build"): {"contents": "read"},
    ("publish", "deploy"): {"pages": "write", "id-token": "write"},
    ("colab", "chapters"): {"contents": "read"},
    ("colab", "report"): {"issues": "write"},
    ("soak", "soak"): {"contents": "read"},
}


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_linter_of_make_lint_can_fail(tmp_path):
    path = tmp_path / "leaky.yml"
    path.write_text(
        "on: pull_request_target\npermissions: write-all\njobs:\n  a:\n    runs-on: ubuntu-latest\n"
        "    steps:\n      - uses: actions/checkout@v4\n"
        "      - run: echo ${{ github.event.pull_request.title }}\n"
    )
    zizmor = Path(sys.executable).with_name("zizmor")
    assert subprocess.run([zizmor, "--offline", path], capture_output=True).returncode != 0


def test_permissions_are_just_these():
    found = {}
    for path in WORKFLOWS:
        workflow = load(path)
        assert workflow["permissions"] == {}
        found |= {(path.stem, name): job["permissions"] for name, job in workflow["jobs"].items()}
    assert found == ALLOWED


def test_actions_are_pinned_by_commit_and_named_by_version():
    pinned = re.compile(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
    for path in WORKFLOWS:
        for line in path.read_text().splitlines():
            if "uses:" in line and "./" not in line:
                assert pinned.search(line), line


def test_jobs_end_and_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in WORKFLOWS:
        for job in load(path)["jobs"].values():
            assert "timeout-minutes" in job or "uses" in job
            for step in job.get("steps", []):
                for target in re.findall(r"make (\S+)", step.get("run", "")):
                    assert re.search(rf"^{re.escape(target)}:", makefile, re.M), target
                for module in re.findall(r"-m (tools\.\w+)", step.get("run", "")):
                    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()


FREEZE = """\
# Do not modify this file directly
ipykernel==6.17.1
ipython==7.34.0
ipywidgets==7.8.0
Jinja2==3.1.9
numpy==2.2.0
jupyter_client==7.4.9
torch @ https://download.pytorch.org/whl/cpu/torch-2.12.0%2Bcpu-cp313-cp313-linux_x86_64.whl#sha256=0
triton==3.4.0
google-colab @ file:///colabtools/dist/google_colab-1.0.0.tar.gz
"""


def test_colabs_versions_are_taken():
    assert versions(FREEZE)["torch"] == "2.12.0"
    assert versions("torch==2.11.0+cu128")["torch"] == "2.11.0"
    new = update(PINS.read_text(), FREEZE)
    lines = new.splitlines()
    assert {"ipywidgets==7.8.0", "numpy==2.2.0", "torch==2.12.0"} <= set(lines)
    kept = versions(PINS.read_text())["scikit-learn"]  # not in this freeze: as it was
    assert f"scikit-learn=={kept}" in lines
    assert not any("triton" in line or "google" in line for line in lines)
    assert update(new, FREEZE) == new
    old = [line for line in PINS.read_text().splitlines() if line.startswith("#")]
    assert [line for line in lines if line.startswith("#")] == old


def test_another_freeze_is_refused():
    with pytest.raises(ValueError, match="not a freeze of Colab: it has no ipykernel"):
        update(PINS.read_text(), "numpy==2.2.0\n404: Not Found\n")
