"""Cluster-parallel training: groups of ranks own clusters, and never talk to each other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from filelock import FileLock
from torch.distributed.distributed_c10d import PrefixStore, Store, init_process_group
from torch.distributed.rendezvous import rendezvous

from bigbatch_ue.batching.plan import even_slice
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.files.tensor_files import read_tensors, write_tensors
from bigbatch_ue.runs.folder import Run
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
        return replace(run, folder=run.folder / "groups" / f"{self.group + 1}-of-{self.groups}")

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
        write_json(run.result, _together([read_json(part.result) for part in parts], parts))


def _together(results: Sequence[dict[str, Any]], parts: Sequence[Run]) -> dict[str, Any]:
    """One result: sums of what groups did, the slowest's time, the largest's memory."""
    images = sum(result["images_seen"] for result in results)
    rows = [len(result["final_loss"]) for result in results]
    return {
        **results[0],
        **{
            key: [value for result in results for value in result[key]]
            for key in ("final_loss", "effective_batch_per_generator")
        },
        **{
            key: max(result[key] for result in results)
            for key in ("seconds", "peak_memory_mib", "micro_batch", "micro_batches")
        },
        "images_seen": images,
        "images_per_second": round(sum(result["images_per_second"] for result in results), 1),
        "world_size": sum(result["world_size"] for result in results),
        "cluster_groups": len(results),
        "noise_scale": noise_scale(list(zip(parts, rows, strict=True))),
    }
