"""Every test starts from the same state, whatever ran before it."""

import sys

import pytest


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
