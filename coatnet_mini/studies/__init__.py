"""The studies: small experiments that were run for this book, their results, and how to run them.

`study("bias")` reads what came out, which needs no torch; `python -m coatnet_mini.studies bias`
does the runs again, or those that are missing.
"""

from coatnet_mini.studies.results import Curve, Interval, Study, list_studies, student, study

__all__ = ["Curve", "Interval", "Study", "list_studies", "student", "study"]
