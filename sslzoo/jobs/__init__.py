"""Training and evaluation on Hugging Face Jobs, for those who have no GPU."""

from .access import writable_namespace
from .following import cancel, find_job, follow, is_failed, list_sslzoo_jobs
from .submission import Plan, plan_evaluation, plan_training, print_plan, submit, unfinished_job

__all__ = [
    "Plan", "cancel", "find_job", "follow", "is_failed", "list_sslzoo_jobs", "plan_evaluation", "plan_training", "print_plan", "submit",
    "unfinished_job", "writable_namespace",
]  # fmt: skip
