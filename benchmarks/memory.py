"""Peak memory of one inference or training step, measured in a process that does nothing else."""

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def peak_of_child(who: str, task: str, compiled: bool, device: str, batch: int) -> int:
    """Bytes that a fresh process needs for one run beyond what it held before the run."""
    arguments = [who, task, str(int(compiled)), device, str(batch), str(torch.get_num_threads())]
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def peak_of_run(run, device: str) -> int:
    run()
    run()  # what is kept between runs, such as optimizer state, exists now
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # Linux: hand free memory back, so that it is counted again
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def main() -> None:
    from benchmarks.network import prepare

    who, task, compiled, device, batch, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    run = prepare(who, task, bool(int(compiled)), device, int(batch))
    print(peak_of_run(run, device))


if __name__ == "__main__":
    main()
