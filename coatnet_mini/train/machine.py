"""What a run has to share: the processes it is made of, its folder, and the signals it is sent."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from coatnet_mini.train.recipe import Recipe

LOCK = ".lock"
JUST_NOW = 10  # seconds in which a lock that says nothing may still be in the making
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not on every system


@contextmanager
def accelerator_of(recipe: Recipe) -> Iterator[Accelerator]:
    """The device and the processes; accelerate's state, which a process has once, goes with it.

    Raises:
        ValueError: processes that share more than their gradients were asked for (FSDP, ...).
    """
    alone = not PartialState._shared_state
    try:
        accelerator = Accelerator(
            cpu=recipe.device == "cpu",
            mixed_precision=recipe.precision,
            step_scheduler_with_optimizer=False,
        )
        kind = accelerator.distributed_type.value
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise ValueError(f"{kind} is not supported; every process holds the whole network")
        yield accelerator
        accelerator.wait_for_everyone()
        if accelerator.num_processes > 1:
            time.sleep(0.2)  # gloo's threads drop their last tensors, or taking it down never ends
        accelerator.end_training()
    finally:
        if alone and PartialState().num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the lock of one that is no more is taken over.

    Raises:
        ValueError: another run is at work there.
    """
    path, me = folder / LOCK, psutil.Process()
    holder = {"pid": me.pid, "started": me.create_time(), "host": socket.gethostname()}
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(holder, file)
            break
        except FileExistsError:
            refuse_if_held(path)
            path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def refuse_if_held(path: Path) -> None:
    """Return if nobody holds a lock any more, else raise a ValueError that says who does."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, started, host = holder["pid"], holder["started"], holder["host"]
        here = host == socket.gethostname()
        if here and not is_alive(int(pid), float(started)):
            return
    except (OSError, ValueError, KeyError, TypeError):
        if not path.exists() or time.time() - path.stat().st_mtime > JUST_NOW:
            return
        raise ValueError(f"{path.parent} has just been taken by another run") from None
    end = "wait for it, or choose another --output" if here else f"if it is no more, delete {path}"
    raise ValueError(f"{path.parent} is in use by process {pid} on {host}; {end}")


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that began at a time is still there, not another of its number."""
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


@contextmanager
def signals(note: Callable[[str], None]) -> Iterator[None]:
    """Hand the name of the first SIGINT, SIGTERM or SIGHUP to `note`; a second one ends the run.

    What the process was told to ignore, as by nohup, it still ignores. In other threads than the
    main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def first(number, frame) -> None:
        note(signal.Signals(number).name)
        signal.signal(number, before[number])

    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, first)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
