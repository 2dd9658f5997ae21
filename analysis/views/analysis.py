"""An analysis in Python: a table of runs and its findings, with figures, sentences and files."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis.defaults import DRAWS, MARGIN
from analysis.findings import findings as fits
from analysis.findings.critical_batch import statements
from analysis.findings.findings import Findings, budgets
from analysis.findings.outputs import write_findings
from analysis.findings.sentences import recommendation, together_statement
from analysis.table.collect import Collection
from analysis.views.plot import curves_figure, overview_figure, plot
from analysis.views.report import write_report
from bigbatch_ue.runtime.errors import UserError


@dataclass(frozen=True)
class Analysis:
    """What the runs of a collection show.

    Attributes:
        collection: the table, and the runs that were left out.
        findings: fits of every curve of the table.
    """

    collection: Collection
    findings: Findings

    def plot(self, dataset: str | None = None) -> Figure:
        """Draw accuracy and instability against B.

        Args:
            dataset: name of one data set; None draws all of them, or the only one in detail.

        Raises:
            UserError: the data set is not in the table.
        """
        datasets = self.findings.datasets
        if dataset is None and len(datasets) > 1:
            return overview_figure(self.findings.findings, budgets(self.findings.findings))
        name = next(iter(datasets)) if dataset is None else dataset
        if name not in datasets:
            raise UserError(f"{name}: not in the table; it has {', '.join(datasets)}")
        return curves_figure(datasets[name])

    def sentences(self) -> list[str]:
        """Say which B protects each data set best and how certain that is; then what else shows."""
        return [
            *map(recommendation, self.findings.findings),
            *statements(self.findings).values(),
            *map(together_statement, self.findings.together),
            *(f"{one.dataset}: {one.statement}" for one in self.findings.separations),
        ]

    def write_report(self, folder: Path) -> Path:
        """Write fits, plots and the report into `folder`; return the path of the page."""
        write_findings(self.findings, folder)
        plot(self.findings, folder / "plots")
        return write_report(self.collection, self.findings, folder)


def analyse(collection: Collection, *, margin: float = MARGIN, draws: int = DRAWS) -> Analysis:
    """Fit every curve of a collection.

    Args:
        collection: of `collect`, or of `read_collection`.
        margin: difference in accuracy, a fraction, up to which batch sizes count as equally good.
        draws: number of random draws of the noise of each curve.

    Raises:
        UserError: the table has no rows.
    """
    if collection.table.empty:
        raise UserError("analyse: the table has no rows; evaluate some runs, and collect them")
    return Analysis(collection, fits.analyse(collection.table, margin=margin, draws=draws))
