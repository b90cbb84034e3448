"""What only a GPU can tell, in one command of nine minutes: `make gpu`.

    python3 -m benchmarks.gpu [--minutes 9] [--only PART] [--toy] [--output FOLDER]

It needs a machine with CUDA, PyTorch 2.4 or newer, NumPy and safetensors; what else is there (timm,
accelerate, kornia, ...) is used, and a part says what it went without. Every part runs in a process
of its own, for its share of the time: one that fails or hangs costs only itself. Results are
written as they come, to gpu.json and gpu.md; parts that are not run keep what stands there.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TOY_RESULTS = ROOT / "runs" / "gpu_toy"
PACKAGES = ("torch", "triton", "numpy", "safetensors", "timm", "accelerate", "kornia")
PARTS = {  # module, and the share of the time; what one leaves over, the later ones have
    "logits": ("benchmarks.gpu_parts.logits", 0.08),
    "speed": ("benchmarks.gpu_parts.speed", 0.46),
    "resumed": ("benchmarks.gpu_parts.resumed", 0.20),
    "paper": ("benchmarks.gpu_parts.paper", 0.19),
    "studies": ("benchmarks.gpu_parts.studies", 0.07),
}
GRACE = 0.92  # of its time a part knows; then it should end by itself
TOLD = 20  # lines of a failed part's output that are shown


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise ValueError(message)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python3 -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9, help="for all parts together (9)")
    parser.add_argument("--only", metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--toy", action="store_true", help="every part at toy size, on the CPU")
    parser.add_argument("--output", type=Path, help="folder for gpu.json and gpu.md")
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.minutes < float("inf"):
        raise ValueError(f"minutes is {chosen.minutes:g}; it must be above 0")
    if chosen.only is not None and chosen.only not in PARTS:
        raise ValueError(f"unknown part {chosen.only!r}; choose from {', '.join(PARTS)}")
    chosen.output = (chosen.output or (TOY_RESULTS if chosen.toy else RESULTS)).resolve()
    if chosen.toy and chosen.output.is_relative_to(RESULTS):
        raise ValueError("--toy measures nothing: its --output cannot be benchmarks/results")
    if not chosen.toy and not torch.cuda.is_available():
        raise ValueError(
            f"no CUDA device here (torch {torch.__version__}); --toy runs every part at toy size "
            "on the CPU"
        )
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 if every part that was run is done, 1 if not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    end = time.monotonic()
    try:
        chosen = read_arguments(arguments)
        chosen.output.mkdir(parents=True, exist_ok=True)
        results = read(chosen.output / "gpu.json")
        about = about_this(arguments, chosen.toy)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"on {about['device']}, for at most {chosen.minutes:g} minutes", flush=True)
    end += 60 * chosen.minutes
    names = [chosen.only] if chosen.only else list(PARTS)
    for n, name in enumerate(names):
        share = PARTS[name][1] / sum(PARTS[each][1] for each in names[n:])
        run_part(name, share * (end - time.monotonic()), chosen, results, about)
    print(f"\n{markdown(results)}\nin {chosen.output / 'gpu.md'}")
    return 0 if all(results[name]["state"] == "done" for name in names) else 1


# ---- A part --------------------------------------------------------------------------------------


def run_part(name: str, seconds: float, chosen, results: dict, about: dict) -> None:
    """Run a part in a process of its own; `results` and the files follow what it finds."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    part = results[name] = {**about, "date": date, "state": "running"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"gpu-{name}-") as folder:
        found, log = Path(folder) / "found.jsonl", Path(folder) / "log.txt"
        due = time.time() + GRACE * seconds
        told = [PARTS[name][0], found, folder, due, "toy" if chosen.toy else "full"]
        command = [sys.executable, "-m", "benchmarks.gpu_parts", *map(str, told)]

        def follow() -> None:
            part.update(read_found(found), seconds=round(time.monotonic() - started, 1))
            write(chosen.output, results)

        part["state"] = "stopped"  # what stands there, should this process be ended
        part["state"] = watch(command, seconds, log, follow)
        follow()
        print(f"{name}: {part['state']}, {part['seconds']:.0f} s", flush=True)
        if part["state"] != "done":
            print("\n".join(log.read_text(errors="replace").splitlines()[-TOLD:]), flush=True)


def watch(command: list[str], seconds: float, log: Path, follow: Callable[[], None]) -> str:
    """Let a command run for so long and no longer; in a word or two, how it ended."""
    end = time.monotonic() + seconds
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
                follow()
        finally:
            with contextlib.suppress(ProcessLookupError):  # the part and all that it started
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    if code == -signal.SIGKILL and time.monotonic() >= end:
        return f"killed after {seconds:.0f} s"
    return "done" if code == 0 else f"failed ({code})"


def read_found(path: Path) -> dict:
    """The rows, notes and the error that a part has written so far; rows of one name are one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    rows: dict[str, dict] = {}
    for row in (line["row"] for line in found if "row" in line):
        rows.setdefault(row["name"], {}).update(row)
    notes = [line["note"] for line in found if "note" in line]
    errors = [{"error": line["error"]} for line in found if "error" in line]
    return {"rows": list(rows.values()), "notes": notes, **(errors[-1] if errors else {})}


def about_this(arguments: list[str], toy: bool) -> dict:
    """What the numbers depend on."""
    return {
        "command": shlex.join(["python3", "-m", "benchmarks.gpu", *arguments]),
        "device": "a CPU, at toy size: no number means anything"
        if toy
        else torch.cuda.get_device_name(),
        "commit": commit(),
        "versions": versions(),
    }


def commit() -> str:
    """The commit of the code, with a + if it has changes; unknown outside a repository."""
    code = ["--", "coatnet_mini", "benchmarks", ":!benchmarks/results", "tests/timm_weights.py"]
    try:
        head, changes = (
            subprocess.run(["git", *what], cwd=ROOT, capture_output=True, text=True, check=True)
            for what in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", *code])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changes.stdout else "")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cuda": torch.version.cuda or "none"}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


# ---- Results -------------------------------------------------------------------------------------


def read(path: Path) -> dict:
    """Earlier results, by part."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"cannot read {path}, delete it or choose --output: {error}") from error


def write(folder: Path, results: dict) -> None:
    """gpu.json and gpu.md, each whole or not at all."""
    ordered = {name: results[name] for name in PARTS if name in results}
    texts = {
        "gpu.json": json.dumps(ordered, ensure_ascii=False, indent=1) + "\n",
        "gpu.md": markdown(ordered),
    }
    for name, text in texts.items():
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)


def markdown(results: dict) -> str:
    return "\n".join(section(name, part) for name, part in results.items())


def section(name: str, part: dict) -> str:
    """One part: how it ended, on what, its notes, its table."""
    versions = ", ".join(f"{name} {number}" for name, number in part["versions"].items())
    lines = [
        f"## {name}: {part['state']}, {part.get('seconds', 0):.0f} s",
        "",
        f"{part['device']}; {versions}; commit {part['commit']}; {part['date']}; "
        f"`{part['command']}`",
        "",
    ]
    if "error" in part:
        lines += [f"Error: {part['error']}", ""]
    for note in part.get("notes", []):
        lines += [note, ""]
    return "\n".join([*lines, *table(part.get("rows", [])), ""])


def table(rows: list[dict]) -> list[str]:
    """Markdown, with every column that any row has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not rows:
        return ["Nothing was measured."]
    align = ["---" if column == "name" else "---:" for column in columns]
    cells = [[shown(row.get(column)) for column in columns] for row in rows]
    headings = ["" if column == "name" else column.replace("_", " ") for column in columns]
    return ["| " + " | ".join(line) + " |" for line in [headings, align, *cells]]


def shown(value) -> str:
    """A table's cell: three digits or more of a number, nothing for nothing."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.exit(main())
