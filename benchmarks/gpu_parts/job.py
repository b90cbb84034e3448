"""What a part of `make gpu` is told, and how it says what it found.

Torch is imported where it is used, so that the process of a part begins at once.
"""

import gc
import json
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Job:
    """One part's work.

    Args:
        toy: sizes for a CPU, to see that everything runs; no number of such a run means anything.
        due: when the part should have ended, by time.time(); it is killed a little later.
        folder: for the part's files. found: the file of JSON lines that the part writes.
    """

    toy: bool
    due: float
    folder: Path
    found: Path

    @property
    def device(self):
        """The torch.device of the part."""
        import torch

        return torch.device("cpu" if self.toy else "cuda")

    def left(self) -> float:
        """Seconds until then."""
        return self.due - time.time()

    def row(self, name: str, **values) -> None:
        """A line of the part's table; a later one of the same name adds to it."""
        self.write({"row": {"name": name, **values}})

    def note(self, text: str) -> None:
        """Something to be read beside the table."""
        self.write({"note": text})

    def write(self, line: dict) -> None:
        with self.found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()


def words(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)


def free() -> None:
    """Give back what the last measurement held."""
    import torch

    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()  # which does nothing where there is no CUDA


def missing(*modules: str) -> str | None:
    """The first package that these modules need and that cannot be imported, or None."""
    from importlib import import_module

    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            name = error.name or module
            if name.startswith(("coatnet_mini.", "benchmarks.", "tests.")):
                raise
            return name
    return None
