"""A part in a process of its own: `python -m benchmarks.gpu_parts MODULE FOUND FOLDER DUE TOY`.

Only benchmarks/gpu.py calls this.
"""

import sys
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_parts.job import Job, words


def main() -> int:
    module, found, folder, due, toy = sys.argv[1:]
    job = Job(toy == "toy", float(due), Path(folder), Path(found))
    try:
        import_module(module).run(job)
    except Exception as error:  # whatever it was: the line goes into the results
        traceback.print_exc()
        job.write({"error": words(error)})
        return 1
    job.write({"done": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
