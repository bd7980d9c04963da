"""The pipeline: choose plugins, have a generator plan and write, validate, apply through the guard, tell the truth.

report = run(job)                    # `drkit enhance run`
preview = look(job)                  # `--dry-run`: no call, nothing written anywhere
report = plan_out(job, file)         # `--plan-out`: calls, but leaves the source alone
report = apply_file(job, file)       # `--apply`: what such a file holds, without calls
report = rollback(job, run)          # `drkit enhance rollback`
"""

from enhance.pipeline.job import Chosen, Preview, RollbackReport, RunJob, RunReport, Selection, Step
from enhance.pipeline.planfile import apply_file, plan_out
from enhance.pipeline.preview import look
from enhance.pipeline.rollback import rollback
from enhance.pipeline.running import run

__all__ = [
    "Chosen",
    "Preview",
    "RollbackReport",
    "RunJob",
    "RunReport",
    "Selection",
    "Step",
    "apply_file",
    "look",
    "plan_out",
    "rollback",
    "run",
]
