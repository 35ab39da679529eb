"""Means of weights against torch's own, and the greedy soup against a search by hand."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from vitctl.sweeping.pot import Pot, greedy_soup, recompute_statistics


def net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
        made.train()
        made(torch.randn(8, 3, 8, 8))
    return made.eval()


def pot_of(*models: nn.Module) -> Pot:
    pot = Pot()
    for model in models:
        pot = pot.with_(model.state_dict())
    return pot


def test_mean__is_that_of_averaged_model() -> None:
    models = [net(seed) for seed in range(3)]
    averaged = AveragedModel(models[0], use_buffers=True)
    for model in models:
        averaged.update_parameters(model)
    mean = pot_of(*models).mean()
    for name, one in averaged.module.state_dict().items():
        torch.testing.assert_close(mean[name], one, rtol=1e-6, atol=1e-7)


def test_mean__of_identical_weights_is_these_to_the_last_bit() -> None:
    model = net(0)
    mean = pot_of(model, model, model).mean()
    assert all(mean[name].equal(one) and mean[name].dtype == one.dtype for name, one in model.state_dict().items())


def test_mean__of_linear_models_says_the_mean_of_what_they_say() -> None:
    first, second, soup = (nn.Linear(6, 3, dtype=torch.float64) for _ in range(3))
    soup.load_state_dict(pot_of(first, second).mean())
    images = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soup(images), (first(images) + second(images)) / 2)


def test_with__leaves_the_pot_as_it_was() -> None:
    first, second = net(0), net(1)
    pot = pot_of(first)
    pot.with_(second.state_dict())
    assert pot.count == 1
    assert pot.mean()["0.weight"].equal(first.state_dict()["0.weight"])


def test_with__another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        pot_of(nn.Linear(2, 3), nn.Linear(3, 3))


def test_statistics__are_those_of_update_bn() -> None:
    batches = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(one)) for one in range(3)]
    mine, theirs, pot = net(5), net(5), pot_of(net(0), net(1))
    for model in (mine, theirs):
        model.load_state_dict(pot.mean())
    recompute_statistics(mine, pot.stale_norms(mine), batches)
    update_bn(batches, theirs)
    assert all(one.equal(theirs.state_dict()[name]) for name, one in mine.state_dict().items())
    assert not any(module.training for module in mine.modules())
    assert mine[1].momentum == 0.1


def test_statistics__of_layers_that_no_run_has_changed_stay() -> None:
    first, second = net(0), net(0)
    with torch.no_grad():
        second[4].weight += 1
    assert pot_of(first, second).stale_norms(first) == []
    assert pot_of(first).stale_norms(first) == []


class Found:
    def __init__(self, loss: float) -> None:
        self.loss = loss


@pytest.mark.parametrize("seed", range(5))
def test_greedy__is_the_loop_of_the_paper(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=6)
    weights: list[Mapping[str, Tensor]] = [{"w": torch.tensor([value])} for value in values]
    order = sorted(range(6), key=lambda index: abs(values[index]))
    kept, pot, found = greedy_soup(order, weights.__getitem__, lambda pot: Found(abs(pot.mean()["w"].item())))
    mine: list[int] = []
    for index in order:  # as algorithm 1 of the paper has it
        if not mine or abs(np.mean(values[[*mine, index]])) <= abs(np.mean(values[mine])):
            mine.append(index)
    assert list(kept) == mine
    assert pot.count == len(mine)
    assert found.loss == pytest.approx(abs(np.mean(values[mine])))


def test_greedy__one_that_does_no_harm_is_added() -> None:
    weights = [{"w": torch.ones(1)}, {"w": torch.ones(1)}]
    kept, _, _ = greedy_soup([1, 0], weights.__getitem__, lambda _: Found(0.5))
    assert kept == (1, 0)
