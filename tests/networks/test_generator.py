"""The generator bank: sizes, bounds, independence, reproducible weights."""

import pytest
import torch

from bigbatch_ue.config.sections import GeneratorConfig
from bigbatch_ue.networks.generator import GeneratorBank, ResNetGenerator


def bank(clusters: int = 2, size: int = 12, seed: int = 0, **generator: object) -> GeneratorBank:
    config = GeneratorConfig.model_validate({"width": 4, **generator})
    return GeneratorBank(clusters, 3, size, config, seed)


def test_a_generator_of_width_64_has_7_8_million_parameters() -> None:
    with torch.device("meta"):
        generator = ResNetGenerator(3, 64)
    assert sum(p.numel() for p in generator.parameters()) == pytest.approx(7.8e6, rel=0.01)


@pytest.mark.parametrize("size", [8, 9, 10, 11, 12, 29])
@pytest.mark.parametrize("channels", [1, 3])
def test_perturbations_have_the_size_of_the_images(size: int, channels: int) -> None:
    made = GeneratorBank(2, channels, size, GeneratorConfig(width=2), seed=0)
    assert made().shape == (2, channels, size, size)


@pytest.mark.parametrize("bound", ["tanh", "clamp"])
@pytest.mark.parametrize("eps", [16 / 255, 0.5])
def test_perturbations_keep_the_bound(bound: str, eps: float) -> None:
    made = bank(bound=bound, eps=eps)
    for parameter in made.parameters():
        parameter.data *= 20
    delta = made()
    assert delta.abs().max() <= eps
    assert delta.abs().max() > 0.9 * eps


def test_clamp_has_no_gradient_outside_the_bound_and_tanh_has() -> None:
    fractions = {}
    for bound in ("clamp", "tanh"):
        made = bank(bound=bound, size=32)
        raw = torch.cat([g(z[None]) for g, z in zip(made.generators, made.noise, strict=True)])
        (slope,) = torch.autograd.grad(
            (made.eps * raw if bound == "tanh" else raw.clamp(-made.eps, made.eps)).sum(), raw
        )
        fractions[bound] = (slope == 0).float().mean().item()
    assert fractions["clamp"] > 0.5
    assert fractions["tanh"] == 0


def test_invariant_4_generators_of_a_bank_are_what_they_would_be_apart() -> None:
    two, three = bank(2, seed=7), bank(3, seed=7)
    assert torch.equal(two(), three()[:2])
    assert not torch.equal(two()[0], two()[1])
    assert not torch.equal(two(), bank(2, seed=8)())
    optimizers = [torch.optim.Adam(b.parameters(), lr=1e-2) for b in (two, three)]
    pull = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for made, optimizer in zip((two, three), optimizers, strict=True):
            optimizer.zero_grad()
            (made() * pull[: len(made.generators)]).sum().backward()
            optimizer.step()
    assert torch.equal(two(), three()[:2])


def test_a_large_bank_holds_the_activations_of_one_generator_at_a_time() -> None:
    def kept_by_the_forward_pass(clusters: int) -> int:
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        made = bank(clusters, size=16)
        made.recomputes = True
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made()
        return kept

    assert kept_by_the_forward_pass(8) < 8 * 3 * 16 * 16
    made = bank(3)
    made.recomputes = True
    pull = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    recomputed = torch.autograd.grad((made() * pull).sum(), list(made.parameters()))
    made.recomputes = False
    expected = torch.autograd.grad((made() * pull).sum(), list(made.parameters()))
    assert all(torch.equal(*pair) for pair in zip(recomputed, expected, strict=True))


def test_a_bank_recomputes_if_it_would_hold_more_than_256_mib() -> None:
    def recomputes(clusters: int, size: int, width: int) -> bool:
        with torch.device("meta"):
            return GeneratorBank(clusters, 3, size, GeneratorConfig(width=width), 0).recomputes

    assert [recomputes(5, 64, 16), recomputes(10, 224, 16)] == [False, True]
    assert [recomputes(1, 224, 64), recomputes(2, 224, 64)] == [False, True]


def test_evaluation_mode_gives_the_pass_that_was_trained() -> None:
    made = bank()
    trained = made()
    assert torch.equal(made.eval()(), trained)


def test_building_a_bank_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    bank()
    assert torch.equal(torch.rand(1), expected)
