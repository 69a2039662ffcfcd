"""What every study is made of: jobs that can be resumed, and a report of what they gave."""

from __future__ import annotations

from foldopt.experiments.frame.adjoints import adjoint_table, compare_adjoints
from foldopt.experiments.frame.certificates import (
    certificate_table,
    certificates,
    merge_certificates,
)
from foldopt.experiments.frame.journal import Journal
from foldopt.experiments.frame.report import Figure, Report, Table
from foldopt.experiments.frame.study import Job, Study, option, studies

__all__ = [
    "Figure",
    "Job",
    "Journal",
    "Report",
    "Study",
    "Table",
    "adjoint_table",
    "certificate_table",
    "certificates",
    "compare_adjoints",
    "merge_certificates",
    "option",
    "studies",
]
