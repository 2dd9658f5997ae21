"""What every process of the tests would import."""

import bigbatch_ue.benchmark.session
import bigbatch_ue.cli.commands
import bigbatch_ue.evaluation.evaluate
import bigbatch_ue.protection.protect
import bigbatch_ue.sweeps.jobs
import bigbatch_ue.training.train  # noqa: F401
