"""How many small mistakes in the package the tests notice: `make mutants N=200 SEED=1`.

N mutations are drawn from all that can be made (tools/mutations.py). Each is tried in a copy of
the tree, in processes with a time limit: against the tests that run its lines, their whole files,
and the chapters that import its module (strict nbval). A mutation that no test can notice, since it
changes nothing that is promised, stands in tests/equivalent_mutants.txt with the reason. Which test
runs which line is measured once for each state of the tree and kept in _build/mutants. Nothing is
changed in the tree itself.

    python -m tools.mutants [N] [SEED] [module ...]    # modules as attention, cpu/lean
"""

import ast
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import coverage
import pytest

from tools.mutations import Mutation, mutations

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "coatnet_mini"
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.txt"
KEPT = ROOT / "_build" / "mutants"
AT_ONCE = 2
# They look at the site, the tools and other environments, start processes, or take minutes.
LEFT_OUT = ("site", "colab_twin", "tools", "home", "workflows", "hygiene", "mutants", "gpu_bench")
READS_ALL = "tests/test_house.py"  # the sources, and so runs no line of what it judges
FORKS = multiprocessing.get_context("forkserver")
LARGE = ("torch", "matplotlib.pyplot", "sklearn.datasets", "hypothesis", "nbval.plugin")
CHAPTER_SECONDS = 18.0  # about; like a test it may take five times as long


# ---- The tree, copied ----------------------------------------------------------------------------


def copy_tree(target: Path, root: Path = ROOT) -> Path:
    """The files of the checkout, with links to what git ignores and tests need."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target / name)
    for name in (".peers", ".venv"):
        if (root / name).exists() and not (target / name).exists():
            (target / name).symlink_to((root / name).resolve())
    return target


def preload() -> None:
    """Import what is large once, in the process that all tests are forked from."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    FORKS.set_forkserver_preload([*LARGE])


def run_pytest(tree: Path, arguments: list[str], seconds: float, log: str = os.devnull):
    """pytest's exit status in `tree`, or None if it took longer than `seconds`."""
    process = FORKS.Process(target=_pytest, args=(tree, arguments, log, dict(os.environ)))
    process.start()
    process.join(seconds)
    try:
        return process.exitcode
    finally:  # with whatever the tests have started
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()


def _pytest(tree: Path, arguments: list[str], log: str, environment: dict[str, str]) -> None:
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(tree)
    sys.path[:0] = [str(tree)]
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = f"{tree}{os.pathsep}{ROOT}"  # ROOT for the plug-in below
    os.environ["PYTEST_ADDOPTS"] = ""  # those of the run in whose tests this is
    sys.dont_write_bytecode = os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--assert=plain", *arguments]))


# ---- Which test runs which line ------------------------------------------------------------------


class Recorder:
    """A pytest plug-in: the lines of the package that each test runs, fixtures included."""

    def __init__(self, tree: Path):
        self.tree, self.seconds = tree, {}
        self.coverage = coverage.Coverage(
            data_file=None, source=[str(tree / PACKAGE)], config_file=False
        )
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - start
            self.coverage.switch_context("")

    def pytest_sessionfinish(self, exitstatus):
        self.coverage.stop()
        data, files = self.coverage.get_data(), {}
        for path in data.measured_files():
            contexts = data.contexts_by_lineno(path)
            name = Path(path).relative_to(self.tree).as_posix()
            files[name] = {line: sorted(set(tests) - {""}) for line, tests in contexts.items()}
        text = json.dumps({"files": files, "seconds": self.seconds, "status": int(exitstatus)})
        Path(os.environ["MUTANTS_MAP"]).write_text(text)


def pytest_configure(config):
    """This module is itself the plug-in, where MUTANTS_MAP says where to write."""
    if "MUTANTS_MAP" in os.environ:
        config.pluginmanager.register(Recorder(Path.cwd()))


def test_files(tree: Path) -> list[str]:
    left_out = {f"test_{name}.py" for name in LEFT_OUT}
    found = sorted((tree / "tests").glob("test_*.py"))
    return [f"tests/{path.name}" for path in found if path.name not in left_out]


def imports_of(notebook: Path, tree: Path) -> list[str]:
    """The package's files that are loaded once all import lines of a chapter have run."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code" and c["id"] != "setup"]  # which has magics
    nodes = [n for c in code for n in ast.walk(ast.parse("".join(c["source"])))]
    lines = [ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = [line for line in lines if line.split()[1].partition(".")[0] == PACKAGE]
    own = f"n.partition('.')[0] == {PACKAGE!r}"
    tell = f"import sys; print(*(m.__file__ for n, m in sys.modules.items() if {own}), sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, tell])],
        env=os.environ | {"PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    exercises = f"{PACKAGE}/exercises/ch{notebook.name[:2]}.py"  # imported by number
    return [*(Path(file).relative_to(tree).as_posix() for file in found), exercises]


def measure(tree: Path, files: list[str] | None = None) -> dict:
    """{"files": {file: {line: tests}}, "seconds": {test: s}}; SystemExit if a test fails.

    "chapters" is {notebook: files of the package that it loads}.

    files: those of the tests that are to be run, without chapters; by default all but `LEFT_OUT`.
    """
    notebooks = [] if files else sorted((tree / "chapters").glob("[0-9]*.ipynb"))
    files = files or test_files(tree)
    digest = hashlib.sha256(" ".join(files).encode())
    sources = [path for folder in (PACKAGE, "tests") for path in (tree / folder).rglob("*.py")]
    for path in sorted([*sources, *notebooks]):
        digest.update(f"{path.relative_to(tree)}\0".encode() + path.read_bytes())
    kept = KEPT / f"{digest.hexdigest()[:16]}.json"
    if not kept.is_file():
        print("which test runs which line? (once for this state of the tree)", flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        os.environ["MUTANTS_MAP"] = str(kept.with_suffix(".new"))
        log = KEPT / "unmutated.txt"
        log.unlink(missing_ok=True)
        status = run_pytest(tree, ["-p", "tools.mutants", *files], 7200, str(log))
        del os.environ["MUTANTS_MAP"]
        if status:
            sys.exit(f"the tests fail without any mutation: see {log}")
        found = json.loads(kept.with_suffix(".new").read_text())
        found["chapters"] = {f"chapters/{n.name}": imports_of(n, tree) for n in notebooks}
        found["seconds"] |= dict.fromkeys(found["chapters"], CHAPTER_SECONDS)
        kept.with_suffix(".new").write_text(json.dumps(found))
        kept.with_suffix(".new").replace(kept)
    return json.loads(kept.read_text())


def tests_of(mutation: Mutation, measured: dict) -> list[str]:
    """The tests that run the mutation's lines, quick ones first; all of its file's at import."""
    lines = measured["files"].get(mutation.file, {})
    began = max((int(n) for n in lines if int(n) <= mutation.lines[0]), default=0)
    own = {str(line) for line in (began, *mutation.lines)}  # of a statement the first may count
    found = {test for line in own for test in lines.get(line, ())}
    if not found and own & lines.keys():
        found = set().union(*lines.values())
    return sorted(found, key=lambda test: measured["seconds"][test])


# ---- The mutants ---------------------------------------------------------------------------------


def attempt(tree: Path, mutation: Mutation, measured: dict) -> str:
    """ "killed", "in time" (killed by its time limit) or "survived"; the tree is as before."""
    path, tests = tree / mutation.file, tests_of(mutation, measured)
    source = path.read_text(encoding="utf-8")
    path.write_text(mutation.apply(source), encoding="utf-8")
    try:
        # A fixture or a cache that tests share shows only in the one that fills it.
        files = {test.partition("::")[0] for test in tests}
        files = [READS_ALL] * (tree / READS_ALL).exists() + sorted(files)
        chapters = [c for c, loaded in measured["chapters"].items() if mutation.file in loaded]
        for chosen in (tests, files, chapters):
            names = tuple(chosen)
            expected = sum(s for t, s in measured["seconds"].items() if t.startswith(names))
            status = run_pytest(tree, ["-x", *chosen], 60 + 5 * expected) if chosen else 0
            if status:
                return "killed"
            if status is None:
                return "in time"
        return "survived"
    finally:
        path.write_text(source, encoding="utf-8")


def equivalents(path: Path = EQUIVALENT) -> dict[tuple[str, str, str], str]:
    """{(file, line of code, change): reason}; ValueError names a line that has no reason."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split(" ⇒ ")]
            if len(parts) != 4 or not all(parts):
                raise ValueError(f"{path.name}: not `file ⇒ code ⇒ change ⇒ reason`: {line}")
            found[tuple(parts[:3])] = parts[3]
    return found


def key(mutation: Mutation) -> tuple[str, str, str]:
    return mutation.file.removeprefix(f"{PACKAGE}/"), mutation.code, mutation.change


def candidates(root: Path, modules: list[str]) -> list[Mutation]:
    """All mutations of the package, or of some modules of it; SystemExit for an unknown one."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    names = {path.relative_to(root / PACKAGE).with_suffix("").as_posix(): path for path in paths}
    if unknown := set(modules) - names.keys():
        sys.exit(f"no module {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [names[name] for name in modules] or paths
    files = [(path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in chosen]
    return [mutation for file, source in files for mutation in mutations(source, file)]


def report(results: dict[Mutation, str]) -> str:
    """The table by module, and below it each survivor."""
    table = defaultdict(Counter)
    for mutation, result in results.items():
        for row in (key(mutation)[0], "all"):
            table[row][result] += 1
    kinds = ("killed", "in time", "survived", "equivalent")
    lines = [f"{'module':32}" + "".join(f"{kind:>12}" for kind in kinds) + f"{'score':>9}"]
    for row in sorted(table, key=lambda row: (row == "all", row)):
        counts = table[row]
        killed = counts["killed"] + counts["in time"]
        judged = killed + counts["survived"]
        score = f"{killed / judged:.1%}" if judged else "–"
        lines.append(f"{row:32}" + "".join(f"{counts[k]:12}" for k in kinds) + f"{score:>9}")
    survivors = sorted((m.file, m.lines[0], m) for m, r in results.items() if r == "survived")
    lines += [""] * bool(survivors)
    lines += [f"{file}:{n}: {m.change}   in   {m.code}" for file, n, m in survivors]
    return "\n".join(lines)


def main() -> None:
    numbers = [a for a in sys.argv[1:] if a.isdigit()]
    modules = [a.removesuffix(".py") for a in sys.argv[1:] if not a.isdigit()]
    count, seed = (int(n) for n in [*numbers, *("200", "1")[len(numbers) :]][:2])
    os.nice(19)
    preload()
    known, everything = equivalents(), candidates(ROOT, modules)
    drawn = random.Random(seed).sample(everything, min(count, len(everything)))
    print(f"{len(drawn)} of {len(everything)} mutations, seed {seed}", flush=True)
    results = {m: "equivalent" for m in drawn if key(m) in known}
    with tempfile.TemporaryDirectory() as folder:
        trees = [copy_tree(Path(folder) / str(n)) for n in range(AT_ONCE)]
        measured = measure(trees[0])

        def work(mutation: Mutation) -> tuple[Mutation, str]:
            tree = trees.pop()
            try:
                return mutation, attempt(tree, mutation, measured)
            finally:
                trees.append(tree)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            tried = [pool.submit(work, m) for m in drawn if m not in results]
            for mutation, result in (future.result() for future in as_completed(tried)):
                results[mutation] = result
                print(
                    f"{result:9} {mutation.file}:{mutation.lines[0]}: {mutation.change[:60]}",
                    flush=True,
                )
    print(f"\n{report(results)}")
    if stale := known.keys() - {key(m) for m in candidates(ROOT, [])}:
        names = "\n".join(" ⇒ ".join(entry) for entry in sorted(stale))
        print(f"\nno longer a mutation, so delete from {EQUIVALENT.name}:\n{names}")


if __name__ == "__main__":
    main()
