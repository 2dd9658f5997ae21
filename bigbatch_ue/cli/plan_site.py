"""The rows of a plan about many nodes: the expected time of a step, and what it consists of."""

from dataclasses import dataclass

from bigbatch_ue.batching.step_plan import StepPlan
from bigbatch_ue.benchmark.machines import (
    MACHINES,
    MEASURED,
    Machine,
    MachineName,
)
from bigbatch_ue.benchmark.step_time import StepModel, StepTime, StepWork
from bigbatch_ue.config.schema import Config
from bigbatch_ue.networks.sizes import generator_size
from bigbatch_ue.reporting.words import counted, number, percent
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName
from bigbatch_ue.training.memory_needs import surrogate_size

_NOT_ESTIMATED = {"fold", "channels_last", "compile", "checkpointing"}
"""Settings of `compute` that change the pace, which was measured with their defaults."""


@dataclass(frozen=True)
class Site:
    """Some nodes of a machine, with a rank for each GPU.

    Attributes:
        name: name of the machine.
        nodes: number of nodes.
        gpus: ranks of a node.
    """

    name: MachineName
    nodes: int
    gpus: int

    @property
    def machine(self) -> Machine:
        """The machine."""
        return MACHINES[self.name]

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return self.nodes * self.gpus


def choose_site(
    nodes: int | None, gpus: int | None, name: MachineName | None, ranks: int | None
) -> Site | None:
    """Return the nodes to plan for; None if no option is about nodes.

    Args:
        nodes: number of nodes.
        gpus: GPUs of a node; None takes all that a node of the machine has.
        name: the machine; None takes the only one whose nodes have that many GPUs.
        ranks: what is given instead, if anything.

    Raises:
        UserError: the options leave something open, contradict each other, or exceed the machine.
    """
    if nodes is None:
        for option, value in (("--gpus", gpus), ("--machine", name)):
            if value is not None:
                raise UserError(f"{option}: needs --nodes; say how many")
        return None
    if ranks is not None:
        raise UserError("--ranks: follows from --nodes and --gpus; leave it out")
    name = name or _machine_with(gpus)
    machine = MACHINES[name]
    for option, given, most in (("nodes", nodes, machine.nodes), ("gpus", gpus, machine.gpus)):
        if given is not None and given > most:
            what = "nodes" if option == "nodes" else "GPUs a node"
            raise UserError(f"--{option} {given}: {name} has {most:,} {what}; take at most that")
    return Site(name, nodes, gpus or machine.gpus)


def _machine_with(gpus: int | None) -> MachineName:
    found = [name for name, machine in MACHINES.items() if gpus in (None, machine.gpus)]
    if len(found) == 1:
        return found[0]
    why = f"{gpus} GPUs a node are not those of one machine" if gpus else "the machine is not named"
    raise UserError(f"--nodes: {why}; name one with --machine: {', '.join(sorted(MACHINES))}")


def require_estimate(config: Config, site: Site, engine: EngineName) -> None:
    """Check that steps of `config` can be estimated.

    Raises:
        UserError: they cannot, or `train` would refuse them.
    """
    groups = config.compute.cluster_groups
    if engine is EngineName.SINGLE and site.ranks > 1:
        raise UserError(f"--engine single: is one rank, not {site.ranks:,}; take ddp")
    if config.batch.accumulation == "engine":
        raise UserError("--nodes: estimates the delta path; set batch.accumulation=delta")
    if config.compute.precision == "bf16" and site.machine.gpu.bf16 is None:
        raise UserError(
            f"--machine {site.name}: has no hardware for bf16; set compute.precision=auto"
        )
    if site.ranks % groups:
        raise UserError(
            f"compute.cluster_groups={groups}: does not divide the {counted(site.ranks, 'rank')} "
            "of --nodes; take a multiple of it"
        )


def site_rows(
    config: Config, step: StepPlan, channels: int, site: Site, engine: EngineName
) -> dict[str, str]:
    """Describe `step` on the nodes of `site`.

    Args:
        config: the resolved configuration.
        step: plan of the step.
        channels: C of the images.
        site: the nodes.
        engine: kind of engine.

    Raises:
        UserError: there are more rank groups than generators.
    """
    groups = config.compute.cluster_groups
    if groups > len(step.per_generator):
        raise UserError(
            f"compute.cluster_groups={groups}: is more than the "
            f"{counted(len(step.per_generator), 'generator')}; take at most as many"
        )
    surrogate = surrogate_size(config, channels)
    generator = generator_size(channels, config.generator.width, config.data.size)
    model = StepModel(
        StepWork(step.per_generator, generator.parameters, step.micro),
        site.machine.gpu.pace(surrogate, generator, config.compute.precision != "float32"),
        site.machine.links,
        site.gpus,
        groups,
        engine,
    )
    time, most = model.at(site.nodes), site.machine.nodes
    efficiency = number(100 * model.efficiency(site.nodes))
    parts = {f"  {part}": f"{percent(own / time.total)} %" for part, own in vars(time).items()}
    parts["  gradient"] += f"; a rank sends {number(model.bytes_sent(site.nodes) / 1e6)} MB"
    speed = f"{number(step.images / time.total)} images/s"
    return {
        "machine": f"{site.name}: {counted(site.nodes, 'node')} x {site.gpus} "
        f"{site.machine.gpu.name} = {counted(site.ranks, 'rank')}",
        **_ranks(model, step, site),
        "expected step": f"{number(time.total)} s, {speed}",
        **parts,
        "efficiency": f"{efficiency} % of {counted(site.ranks, 'single GPU')}",
        "  generators over 50 %": _from(
            model.first_where(StepTime.is_held_by_generators, most), most
        ),
        "  communication over 10 %": _from(
            model.first_where(StepTime.is_held_by_communication, most), most
        ),
        "basis": _basis(config, model.pace == MEASURED),
    }


def _ranks(model: StepModel, step: StepPlan, site: Site) -> dict[str, str]:
    """Describe rank groups, and ranks that have nothing to do."""
    rows = {}
    if model.groups > 1:
        generators = counted(model.work.fullest(model.groups)[1], "generator")
        ranks = counted(site.ranks // model.groups, "rank")
        rows["rank groups"] = f"{model.groups:,} of {ranks}, up to {generators} each"
    if step.images < site.ranks:
        idle = site.ranks - step.images
        rows["idle ranks"] = f"{idle:,}: a step has {counted(step.images, 'image')}"
    return rows


def _from(nodes: int | None, most: int) -> str:
    return f"not on {most:,} nodes" if nodes is None else f"from {counted(nodes, 'node')} on"


def _basis(config: Config, is_measured: bool) -> str:
    """Say what the estimate rests on, and which settings it leaves out."""
    pace = "measured on one H100" if is_measured else "scaled from ResNet-50, 224 px, on one H100"
    changed = config.compute.model_dump(include=_NOT_ESTIMATED, exclude_defaults=True)
    without = [f"without compute.{', compute.'.join(changed)}"] if changed else []
    return "; ".join([pace, "links as rated", *without])
