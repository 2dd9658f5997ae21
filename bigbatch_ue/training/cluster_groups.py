"""Cluster-parallel training: groups of ranks own clusters, and never talk to each other."""

import os
from dataclasses import dataclass, replace

import torch
from filelock import FileLock
from torch.distributed.distributed_c10d import PrefixStore, Store, init_process_group
from torch.distributed.rendezvous import rendezvous

from bigbatch_ue.batching.plan import even_slice
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.result import merge_results, read_result
from bigbatch_ue.runtime.accelerator import COLLECTIVE_TIMEOUT
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import RANK_GROUP_VARIABLE
from bigbatch_ue.training.noise_monitor import noise_scale


@dataclass(frozen=True)
class RankGroup:
    """Group `group` of `groups`, from 0; the generators of the bank are cut evenly between them.

    `world` is the number of ranks of all groups, `store` where they meet.
    """

    group: int = 0
    groups: int = 1
    world: int = 1
    store: Store | None = None

    def rows(self, clusters: int) -> slice:
        """Which of `clusters` generators this group owns."""
        return even_slice(clusters, self.groups, self.group)

    def run(self, run: Run) -> Run:
        """Where this group keeps its metrics, checkpoints and result."""
        if self.groups == 1:
            return run
        return replace(run, folder=run.groups / f"{self.group + 1}-of-{self.groups}")

    def meet(self) -> None:
        """Wait for the ranks of all groups."""
        if self.store is not None:
            if self.store.add("arrived", 1) == self.world:
                self.store.set("all arrived", "")
            self.store.wait(["all arrived"])

    @property
    def all(self) -> "list[RankGroup]":
        """The shares of all groups."""
        return [replace(self, group=group) for group in range(self.groups)]


SINGLE_GROUP = RankGroup()


def join_rank_group(groups: int) -> RankGroup:
    """Make this rank's group a world of its own, before any engine is started.

    Groups are runs of consecutive ranks. They share the launcher's store for meeting, nothing else.

    Raises:
        UserError: the ranks cannot be cut into so many groups.
    """
    if groups == 1:
        return SINGLE_GROUP
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % groups:
        raise UserError(
            f"compute.cluster_groups={groups} does not divide the launcher's {world} rank(s)"
        )
    size = world // groups
    store, rank, _ = next(rendezvous("env://"))
    group, own = divmod(rank, size)
    init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"clusters-{group}", store),
        rank=own,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    os.environ |= {"RANK": str(own), "WORLD_SIZE": str(size), RANK_GROUP_VARIABLE: str(group)}
    return RankGroup(group, groups, world, store)


def merge_groups(run: Run, share: RankGroup) -> None:
    """Put together what the groups found, once all have finished.

    Called by one rank of each group when it has finished: the last one finds all results.
    """
    if share.groups == 1:
        return
    parts = [each.run(run) for each in share.all]
    with FileLock(run.folder / "merge.lock"):
        if run.finished or not all(part.finished for part in parts):
            return
        tensors, metadata = zip(*(read_tensors(part.perturbations) for part in parts), strict=True)
        whole = torch.cat([part["perturbations"] for part in tensors])
        write_tensors(run.perturbations, {"perturbations": whole}, metadata[0])
        results = [read_result(part.result) for part in parts]
        sizes = [len(result.final_loss) for result in results]
        noise = noise_scale(list(zip(parts, sizes, strict=True)))
        merge_results(results, noise).write(run.result)
