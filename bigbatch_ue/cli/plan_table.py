"""A table of the batch plan and its expected memory, for the terminal."""

from dataclasses import dataclass

from rich.table import Table

from bigbatch_ue.batching.plan import DEFAULT_MICRO_BATCH, BatchPlan, make_plan
from bigbatch_ue.batching.step_plan import even_sizes
from bigbatch_ue.cli.plan_site import Site, site_rows
from bigbatch_ue.clustering.resolve import (
    DEFAULT_COUNT,
    expected_sizes,
    resolve_clusters,
    without_labels,
)
from bigbatch_ue.config.names import Grouping
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import DataSet, prepare_dataset
from bigbatch_ue.reporting.words import counted, span
from bigbatch_ue.runs.result import Agreement
from bigbatch_ue.runtime.ranks import EngineName
from bigbatch_ue.training.memory_needs import expected_memory

_RANKS_SHOWN = 8
_SEGMENTS_SHOWN = 8
_PARTS = {
    "generator_parameters": "generators: parameters",
    "generator_gradients": "generators: gradients",
    "optimizer_state": "generators: optimizer",
    "generator_activations": "generators: activations",
    "surrogate_weights": "surrogate: weights",
    "surrogate_activations": "surrogate: activations",
}


def plan_table(
    config: Config,
    ranks: int,
    images: int | None,
    engine: EngineName,
    download: bool,
    agreement: bool = False,
    site: Site | None = None,
) -> Table:
    """Make a table of the batch plan of `config` on `ranks` ranks.

    Args:
        config: the resolved configuration.
        ranks: number of ranks.
        images: number of train images; None decodes the data set to count them.
        engine: the expected memory is under this engine.
        download: allow the data set to be downloaded.
        agreement: group the images by features now, for the sizes of the clusters and what they
            say of the labels.
        site: the nodes of the ranks, to estimate the time of a step there; None leaves it out.
    """
    config, channels, grouping = _grouped(config, images, download, agreement)
    plan = make_plan(config, grouping.sizes, ranks)
    if site and config.batch.micro == "auto":
        plan = plan.with_micro(DEFAULT_MICRO_BATCH["cuda"])
    steps = [step for _, step in plan.segments()]
    fullest = max(steps, key=lambda step: step.images)
    per_rank, micro = even_sizes(fullest.images, ranks), plan.largest_micro
    needs = expected_memory(config, channels, micro, ranks, engine)
    total = counted(sum(grouping.sizes), "train image")
    table = Table(show_header=False, title=f"{config.data.name}: {total}")
    about = "about " if grouping.estimated and plan.is_capped else ""
    rows = {
        "effective batch": f"{about}{plan.batch_in_words} (requested {plan.requested:,})",
        **({"choice": plan.choice_in_words} if plan.choice_in_words else {}),
        "generators": f"{config.clusters.generators:,}, scope {config.batch.scope}",
        "images per cluster": grouping.sizes_in_words,
        "labels": grouping.labels,
        "images per step": f"{span(step.images for step in steps)} through the surrogate",
        "images per rank": " + ".join(f"{size:,}" for size in per_rank[:_RANKS_SHOWN])
        + (" + ..." if ranks > _RANKS_SHOWN else ""),
        "micro-batches": f"{span(step.micro_batches for step in steps)} of up to {micro:,} "
        f"(limit {config.batch.micro})",
        "steps per epoch": span(step.steps_per_epoch for step in steps),
        "steps": f"{plan.steps:,} (budget: {config.budget.kind})",
        "learning rate": fullest.lr_reason,
        **(_schedule_rows(plan) if len(steps) > 1 else {}),
        "expected memory": f"{needs.total:,.0f} MiB per rank under {engine}",
        **{f"  {label}": f"{getattr(needs, part):,.1f} MiB" for part, label in _PARTS.items()},
        **(site_rows(config, fullest, channels, site, engine) if site else {}),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    if plan.warning:
        table.caption = f"warning: {plan.warning}"
    return table


def _schedule_rows(plan: BatchPlan) -> dict[str, str]:
    """Describe the segments of a schedule, of many the first ones and the last."""
    rows = {
        f"  from step {steps.start:,}": f"B = {span(step.per_generator)}: "
        f"{counted(step.images, 'image')}, {counted(step.micro_batches, 'micro-batch')} of up to "
        f"{step.largest_micro:,}, learning rate {step.lr:.3g}"
        for steps, step in plan.segments()
    }
    names, left_out = list(rows), len(rows) - _SEGMENTS_SHOWN
    if left_out <= 1:
        return {"schedule": "", **rows}
    shown = {name: rows[name] for name in names[: _SEGMENTS_SHOWN - 1]}
    between = {"  ...": f"{left_out:,} more values of B"}
    return {"schedule": "", **shown, **between, names[-1]: rows[names[-1]]}


@dataclass(frozen=True)
class _GroupingPlan:
    """The clusters of a plan: their sizes, and what they tell of the labels, in words.

    Attributes:
        sizes: images in each cluster.
        estimated: why the sizes are estimates, in words; empty if they are certain.
        labels: what the clusters tell of the labels.
    """

    sizes: list[int]
    estimated: str
    labels: str

    @property
    def sizes_in_words(self) -> str:
        sizes = span(self.sizes)
        return f"about {sizes} ({self.estimated})" if self.estimated else sizes


def _grouped(
    config: Config, images: int | None, download: bool, agreement: bool
) -> tuple[Config, int, _GroupingPlan]:
    """Resolve the clusters of `config`; return it, the channels of the images, and the grouping."""
    if images is None:
        data = prepare_dataset(config.data, download=download)
        config = resolve_clusters(config, data.train.labels)
        return config, data.train.images.shape[1], _group(config, data, agreement)
    assumed = "" if config.clusters.count != "auto" else f"assuming {DEFAULT_COUNT} clusters; "
    config = without_labels(config)
    sizes = even_sizes(images, config.clusters.generators)
    labels = f"{assumed}unknown without the images (leave out --images)"
    return config, 3, _GroupingPlan(sizes, "if all are alike", labels)


def _group(config: Config, data: DataSet, measure: bool) -> _GroupingPlan:
    """Plan the clusters of `data`; k-means over all images only if `measure`."""
    by, labels = config.clusters.by, data.train.labels
    sizes = expected_sizes(config.clusters, labels)
    told = f"clusters tell all of the label (clusters.by={by})"
    if by == Grouping.LABELS:
        return _GroupingPlan(sizes, "", told)
    if not measure:
        if by == Grouping.FEATURES:
            told = (
                "add --agreement to group the images and see what the clusters tell of the labels"
            )
        return _GroupingPlan(sizes, "k-means decides; add --agreement to group now", told)
    grouped, agreement = _group_now(config, data)
    return _GroupingPlan(grouped, "", str(agreement) if agreement else "a single class")


def _group_now(config: Config, data: DataSet) -> tuple[list[int], Agreement | None]:
    """Group the images; return the sizes of the clusters, and what they tell of the labels."""
    import torch  # with what is built on it, this takes seconds

    from bigbatch_ue.clustering.agreement import measure_agreement
    from bigbatch_ue.networks.surrogate import surrogate_of_run
    from bigbatch_ue.training.setup import cluster_images

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clusters = cluster_images(config, data, surrogate_of_run(config, data, device), device)
    agreement = measure_agreement(clusters.assignment.numpy(), data.train.labels)
    return clusters.sizes.tolist(), agreement
