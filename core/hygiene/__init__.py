"""Hygiene of model files: what a path is, whether it may be used, what in it is garbage, and a clean copy.

Imports no tensor library: a client may use it.
"""

from core.hygiene.adapters import check_adapter
from core.hygiene.clean import CleanPlan, CleanResult, NotClean, clean, plan_clean
from core.hygiene.findings import Finding, Report
from core.hygiene.garbage import garbage_reason
from core.hygiene.kinds import Kind, kind_of
from core.hygiene.validate import validate_model

__all__ = [
    "CleanPlan",
    "CleanResult",
    "Finding",
    "Kind",
    "NotClean",
    "Report",
    "check_adapter",
    "clean",
    "garbage_reason",
    "kind_of",
    "plan_clean",
    "validate_model",
]
