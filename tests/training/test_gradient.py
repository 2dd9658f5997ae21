"""The two gradient paths in one process, against plain automatic differentiation."""

import numpy as np
import pytest
import torch

from bigbatch_ue.batching.loader import MicroBatch
from bigbatch_ue.batching.plan import lr_at
from bigbatch_ue.batching.sampler import GlobalBatch
from bigbatch_ue.config.schema import Config
from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import EngineName
from bigbatch_ue.training.engine import Engine
from bigbatch_ue.training.exchange import StepExchange
from bigbatch_ue.training.gradient import delta_step, engine_step
from tests.helpers.trainer import Trainer


@pytest.fixture(scope="module")
def trainers() -> dict[str, Trainer]:
    accelerator = start_accelerator()
    return {path: Trainer(accelerator, f"64x17-{path}-sgd-1") for path in ("delta", "engine")}


def whole(trainer: Trainer, batch: GlobalBatch) -> MicroBatch:
    """The global batch as a single micro-batch."""
    return next(trainer.job.loader(batch, [slice(None)]))


def whole_batch_gradient(trainer: Trainer, batch: GlobalBatch) -> torch.Tensor:
    """Ordinary backward through the generators, all images at once, no engine."""
    bank = trainer.engine().bank
    trainer.job.loss(bank(), whole(trainer, batch)).sum().backward()
    return torch.cat([p.grad.flatten() for p in bank.parameters()])


@pytest.mark.parametrize("path", ["delta", "engine"])
def test_invariant_3_both_paths_give_the_gradient_of_the_whole_batch(
    path: str, trainers: dict[str, Trainer]
) -> None:
    trainer = trainers[path]
    batch = trainer.batch()
    expected = whole_batch_gradient(trainer, batch)
    engine = trainer.engine()
    passes, gradients = [], []
    engine.bank.register_forward_hook(lambda *_: passes.append(1))
    for parameter in engine.bank.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.append(p))
    start = torch.cat([p.detach().flatten() for p in engine.bank.parameters()])
    take_step = delta_step if path == "delta" else engine_step
    losses = take_step(engine, trainer.job.loss, trainer.micros(batch), 100.0, StepExchange(engine))
    moved = torch.cat([p.detach().flatten() for p in engine.bank.parameters()]) - start
    assert (moved / -100 - expected).norm() < 1e-5 * expected.norm()
    assert trainer.plan.micro_batches == 8
    assert len(passes) == (1 if path == "delta" else 8)
    assert len(gradients) == len(passes) * len(list(engine.bank.parameters()))
    with torch.no_grad():
        weighted = trainer.job.loss(trainer.engine().perturbations(), whole(trainer, batch))
    by_generator = np.bincount(batch.generator, weighted.numpy())
    assert np.allclose(losses.numpy(), by_generator, rtol=1e-5)


def test_invariant_3_delta_path_keeps_no_graph_of_a_micro_batch(
    trainers: dict[str, Trainer],
) -> None:
    """Each micro-batch's graph is gone before the next one's is made."""
    trainer = trainers["delta"]
    alive: list[torch.Tensor] = []

    def loss(delta: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
        assert all(t.grad_fn is None or not _has_graph(t) for t in alive)
        losses = trainer.job.loss(delta, micro)
        alive.append(losses)
        return losses

    batch = trainer.batch()
    micros = trainer.micros(batch)
    engine = trainer.engine()
    delta_step(engine, loss, micros, 1.0, StepExchange(engine))
    assert len(alive) == 8


def _has_graph(losses: torch.Tensor) -> bool:
    try:
        losses.sum().backward()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars", "lamb"])
def test_every_optimizer_moves_the_perturbations(name: str, trainers: dict[str, Trainer]) -> None:
    trainer = trainers["delta"]
    settings = Config.model_validate({"optimizer": {"name": name}}).optimizer
    bank = trainer.engine().bank
    engine = Engine(trainer.accelerator, bank, settings, accumulation=1)
    before = engine.current_perturbations()
    micros = iter([whole(trainer, trainer.batch())])
    delta_step(engine, trainer.job.loss, micros, 0.01, StepExchange(engine))
    assert not torch.equal(engine.current_perturbations(), before)


def test_norm_scaling_optimizers_are_refused_where_layers_are_sharded(
    trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainers["delta"]
    settings = Config.model_validate({"optimizer": {"name": "lamb"}}).optimizer
    monkeypatch.setattr("bigbatch_ue.training.engine.engine_name", lambda _: EngineName.ZERO2)
    with pytest.raises(UserError, match="use one process or DDP, or adam, adamw or sgd"):
        Engine(trainer.accelerator, torch.nn.Linear(1, 1), settings, accumulation=1)


@pytest.mark.parametrize("path", ["delta", "engine"])
def test_a_schedule_takes_the_exact_gradient_of_each_step_in_as_many_micro_batches(
    path: str,
) -> None:
    trainer = Trainer(start_accelerator(), f"9+64x17-{path}-sgd-2")
    engine = trainer.engine()
    for step, micro_batches in ((0, 2), (1, 8)):
        batch = trainer.batch(step)
        assert np.bincount(batch.generator).tolist() == [(9, 64)[step]] * 2
        start = {k: v.detach().clone() for k, v in engine.bank.named_parameters()}
        trainer.job.loss(engine.bank(), whole(trainer, batch)).sum().backward()
        expected = torch.cat([p.grad.flatten() for p in engine.bank.parameters()])
        engine.optimizer.zero_grad()
        trainer.train(engine, step, step + 1)
        moved = torch.cat(
            [(p.detach() - start[k]).flatten() for k, p in engine.bank.named_parameters()]
        )
        lr = lr_at(step, trainer.plan)
        assert (moved / -lr - expected).norm() < 1e-5 * expected.norm()
        assert trainer.plan.at(step).micro_batches == micro_batches
