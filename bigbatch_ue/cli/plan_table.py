"""A table of the batch plan and its expected memory, for the terminal."""

from rich.table import Table

from bigbatch_ue.batching.plan import even_sizes, make_plan
from bigbatch_ue.config.schema import Config
from bigbatch_ue.data.decoded import prepare_dataset
from bigbatch_ue.runtime.ranks import EngineName
from bigbatch_ue.training.requirements import expected_memory

_RANKS_SHOWN = 8
_PARTS = {
    "generator_parameters": "generators: parameters",
    "generator_gradients": "generators: gradients",
    "optimizer_state": "generators: optimizer",
    "generator_activations": "generators: activations",
    "surrogate_weights": "surrogate: weights",
    "surrogate_activations": "surrogate: activations",
}


def plan_table(
    config: Config, ranks: int, images: int | None, engine: EngineName, download: bool
) -> Table:
    """Make a table of the batch plan of `config` on `ranks` ranks, with clusters of equal size.

    Args:
        config: the resolved configuration.
        ranks: number of ranks.
        images: number of train images; None decodes the data set to count them.
        engine: the expected memory is under this engine.
        download: allow the data set to be downloaded.
    """
    channels = 3
    if images is None:
        train = prepare_dataset(config.data, download=download).train
        images, channels = len(train), train.images.shape[1]
    p = config.clusters.count
    plan = make_plan(config, even_sizes(images, p), ranks)
    per_rank = even_sizes(plan.images_per_step, ranks)
    micro = plan.largest_micro
    needs = expected_memory(config, channels, micro, ranks, engine)
    table = Table(show_header=False, title=f"{config.data.name}: {images:,} train images")
    rows = {
        "effective batch": f"{plan.effective:,} (requested {plan.requested:,})",
        "generators": f"{p}, scope {config.batch.scope}",
        "images per step": f"{plan.images_per_step:,} through the surrogate",
        "images per rank": " + ".join(f"{size:,}" for size in per_rank[:_RANKS_SHOWN])
        + (" + ..." if ranks > _RANKS_SHOWN else ""),
        "micro-batches": f"{plan.micro_batches:,} of up to {micro:,} (limit {config.batch.micro})",
        "steps per epoch": f"{plan.steps_per_epoch:,}",
        "steps": f"{plan.steps:,} (budget: {config.budget.kind})",
        "learning rate": plan.lr_reason,
        "expected memory": f"{needs.total:,.0f} MiB per rank under {engine}",
        **{f"  {label}": f"{getattr(needs, part):,.1f} MiB" for part, label in _PARTS.items()},
    }
    for name, value in rows.items():
        table.add_row(name, value)
    if plan.warning:
        table.caption = f"warning: {plan.warning}"
    return table
