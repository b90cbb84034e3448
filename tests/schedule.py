"""How pytest-xdist shares the tests among its workers: by file, the longest first.

Of test_site.py each page of the book is a share of its own, so that no worker is left with all of
them; the tests of one page stay together, since they share its figures and what is loaded of it.
"""

import re

from xdist.scheduler import LoadScopeScheduling

SITE = "tests/test_site.py"
# A share that runs for minutes must not be the last one to begin.
LONGEST = ("tests/test_colab_twin.py", "chapters/04_", SITE, "tests/test_studies.py", "chapters/")


def share_of(nodeid: str) -> str:
    """The share that a test belongs to: its file, for a page of the book the page."""
    file = nodeid.partition("::")[0]
    page = re.search(r"\[([\w/]+\.html)\b", nodeid) if file == SITE else None
    return f"{file}[{page[1]}]" if page else file


def turn_of(share: str) -> int:
    """Its place in the queue; equals keep the order in which they were collected."""
    return next((k for k, start in enumerate(LONGEST) if share.startswith(start)), len(LONGEST))


class Shares(LoadScopeScheduling):
    """xdist's scheduler of groups, with the groups and the order of this module."""

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)

    def _assign_work_unit(self, node) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=turn_of), last=False)
        super()._assign_work_unit(node)
