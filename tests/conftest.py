"""Every test starts from the same state, whatever ran before it."""

import os
import random
import sys

import pytest

# As the Makefile has it, also for the processes that a test starts, and where pytest is called.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    about = "run files, and the tests within each, in an order drawn from SEED"
    parser.addoption("--random-order", type=int, metavar="SEED", help=about)


def pytest_collection_modifyitems(config, items):
    """The cells of a notebook keep their order."""
    seed = config.getoption("--random-order")
    if seed is None:
        return
    rng = random.Random(seed)
    place = {path: rng.random() for path in dict.fromkeys(item.path for item in items)}

    def key(item) -> tuple[float, float]:
        return place[item.path], rng.random() if isinstance(item, pytest.Function) else 0

    items.sort(key=key)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, with the longest first and the site's pages shared out."""
    if config.getoption("dist") == "loadfile":
        from tests.schedule import Shares

        return Shares(config, log)
    return None


@pytest.fixture(autouse=True)
def fresh_state():
    """Seed 0, one thread and float32; nothing is imported for it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_num_threads(1)  # sharing such small tensors only costs time
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64(fresh_state):
    """New tensors are float64; a module asks for it with `pytest.mark.usefixtures`."""
    import torch

    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from tests.browser_scripts import chromium

    with chromium() as started:
        yield started
