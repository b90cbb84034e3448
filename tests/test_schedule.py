"""How the tests are shared among pytest-xdist's workers."""

from collections import OrderedDict

import pytest

from tests import ROOT
from tests.schedule import LONGEST, Shares, share_of, turn_of


@pytest.mark.parametrize(
    ("nodeid", "share"),
    [
        ("tests/test_cost.py::test_a[x.html]", "tests/test_cost.py"),
        ("chapters/04_three_properties.ipynb::Cell 5", "chapters/04_three_properties.ipynb"),
        ("tests/test_site.py::test_every_page_is_there", "tests/test_site.py"),
        ("tests/test_site.py::test_a[book/map.html]", "tests/test_site.py[book/map.html]"),
        (
            "tests/test_site.py::test_b[chapters/01_a.html-light]",
            "tests/test_site.py[chapters/01_a.html]",
        ),
    ],
)
def test_a_page_of_the_site_is_a_share_and_any_other_file_is_one(nodeid, share):
    assert share_of(nodeid) == share


def test_the_longest_begin_first_and_others_as_they_were_collected():
    class Worker:
        def __init__(self):
            self.sent = []

        def send_runtest_some(self, indices):
            self.sent += indices

    tests = [
        "tests/test_b.py::test",
        "chapters/02_b.ipynb::Cell 0",
        "tests/test_a.py::test",
        "tests/test_site.py::test[chapters/02_b.html]",
        "tests/test_site.py::test[chapters/01_a.html]",
        "tests/test_colab_twin.py::test",
    ]
    scheduler, worker = object.__new__(Shares), Worker()
    scheduler.workqueue = OrderedDict((share_of(test), {test: False}) for test in tests)
    scheduler.assigned_work, scheduler.registered_collections = {}, {worker: tests}
    while scheduler.workqueue:
        scheduler._assign_work_unit(worker)
    assert worker.sent == [5, 3, 4, 1, 0, 2]


def test_what_is_called_long_is_there():
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*") if path.is_file()]
    for start in LONGEST:
        assert any(file.startswith(start) for file in files), start
    assert turn_of("tests/test_cost.py") == len(LONGEST)
