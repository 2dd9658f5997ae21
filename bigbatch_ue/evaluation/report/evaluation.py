"""An evaluation in Python: its arms, with a table, a figure and sentences."""

from matplotlib.figure import Figure
from rich.table import Table

from bigbatch_ue.evaluation.arms import Arm
from bigbatch_ue.evaluation.report.charts import accuracies
from bigbatch_ue.evaluation.report.groups import titled_results
from bigbatch_ue.evaluation.report.terminal import arms_table, verdicts
from bigbatch_ue.runtime.errors import UserError


class Evaluation(list[Arm]):
    """The finished arms of an evaluation, in the order in which they were requested."""

    def plot(self) -> Figure:
        """Draw the accuracy of each arm on clean test images, seed by seed, and that of guessing.

        Raises:
            UserError: there is no finished arm.
        """
        if not self:
            raise UserError("plot: no arm is finished; evaluate the run again")
        return accuracies(titled_results(self))

    def table(self) -> Table:
        """Return a table for `rich.print`, or for the output of a notebook."""
        return arms_table(self)

    def sentences(self) -> list[str]:
        """Say what the perturbations do to a network, and whether controls do the same."""
        return verdicts(self)
