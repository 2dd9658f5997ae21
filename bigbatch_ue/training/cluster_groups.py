"""Cluster groups: each group of ranks trains its own clusters, without messages between groups."""

from dataclasses import dataclass, replace

import torch
from torch.distributed.distributed_c10d import PrefixStore, Store, init_process_group
from torch.distributed.rendezvous import rendezvous

from bigbatch_ue.batching.step_plan import even_slice
from bigbatch_ue.files.locks import locked
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.reporting.words import counted
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.result import merge_results, read_result
from bigbatch_ue.runtime.accelerator import COLLECTIVE_TIMEOUT
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import enter_rank_group, world_size
from bigbatch_ue.training.noise_monitor import noise_scale


@dataclass(frozen=True)
class RankGroup:
    """One of several groups of consecutive ranks; the generators are divided evenly among them.

    Attributes:
        index: number of the group, from 0.
        count: number of groups.
        world_size: number of ranks of all groups.
        store: store of the launcher, which all ranks share.
    """

    index: int = 0
    count: int = 1
    world_size: int = 1
    store: Store | None = None

    def generators(self, total: int) -> slice:
        """Return which of `total` generators this group trains."""
        return even_slice(total, self.count, self.index)

    def part_of(self, run: Run) -> Run:
        """Return the part of `run` with this group's metrics, checkpoints and result."""
        if self.count == 1:
            return run
        return replace(run, folder=run.group(self.index + 1, self.count).folder)

    def parts_of(self, run: Run, total: int) -> list[tuple[Run, int]]:
        """Return the part of each group, and how many of `total` generators it trains."""
        groups = [(each, each.generators(total)) for each in self.all_groups]
        return [(group.part_of(run), own.stop - own.start) for group, own in groups]

    def barrier(self) -> None:
        """Wait for the ranks of all groups."""
        if self.store is not None:
            if self.store.add("arrived", 1) == self.world_size:
                self.store.set("all arrived", "")
            self.store.wait(["all arrived"])

    @property
    def all_groups(self) -> "list[RankGroup]":
        """All groups, this one included."""
        return [replace(self, index=index) for index in range(self.count)]


SINGLE_GROUP = RankGroup()


def join_rank_group(count: int) -> RankGroup:
    """Make this rank's group, one of `count`, a world of its own, before any engine is started.

    A group is a range of consecutive ranks. Groups share nothing but the launcher's store.

    Raises:
        UserError: the ranks cannot be divided into that many groups.
    """
    if count == 1:
        return SINGLE_GROUP
    world = world_size()
    if world % count:
        raise UserError(
            f"compute.cluster_groups={count}: does not divide the launcher's "
            f"{counted(world, 'rank')}; start a multiple of it"
        )
    size = world // count
    store, global_rank, _ = next(rendezvous("env://"))
    index, rank = divmod(global_rank, size)
    init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"clusters-{index}", store),
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    enter_rank_group(index, rank, size)
    return RankGroup(index, count, world, store)


def merge_groups(run: Run, group: RankGroup) -> None:
    """Merge the perturbations and results of all groups into `run`, once all have finished.

    One rank of each group calls this when the group has finished; the last one merges.
    """
    if group.count == 1:
        return
    parts = [each.part_of(run) for each in group.all_groups]
    with locked(run.folder / "merge.lock"):
        if run.finished or not all(part.finished for part in parts):
            return
        tensors, metadata = zip(*(read_tensors(part.perturbations) for part in parts), strict=True)
        perturbations = torch.cat([each["perturbations"] for each in tensors])
        write_tensors(run.perturbations, {"perturbations": perturbations}, metadata[0])
        results = [read_result(part.result) for part in parts]
        sizes = [len(result.final_loss) for result in results]
        noise = noise_scale(list(zip(parts, sizes, strict=True)))
        merge_results(results, noise).write(run.result)
