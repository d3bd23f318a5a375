import statistics
import time

import pytest
import torch
from tiny_pipeline import normal

from limbeck import Experiment
from limbeck.methods.sds import SDS
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.particle_tensor import ParticleTensor
from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors
from limbeck.training.trainer import Run


def tensors(separate: bool) -> ParticleTensor:
    out = ParticleTensor(normal(5, 2, seed=int(separate)))
    if separate:
        out.separate()
    return out


@pytest.mark.parametrize("separate", [False, True])
def test_rows_are_particles(separate):
    initial = normal(5, 2, seed=int(separate))
    x = tensors(separate)
    index = torch.tensor([3, 0, 3])
    assert torch.equal(x.gather(index), initial[index])
    assert torch.equal(torch.stack(list(x)), initial) and len(x) == 5
    assert len(list(x.parameters())) == (5 if separate else 1)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_either_layout_loads_from_either(saved, loaded):
    first, second = tensors(saved), tensors(loaded)
    second.load_state_dict(first.state_dict())
    assert torch.equal(torch.stack(list(second)), torch.stack(list(first)))


def test_other_numbers_of_particles_do_not_load():
    for separate in (False, True):
        with pytest.raises(RuntimeError):
            tensors(separate).load_state_dict(ParticleTensor(normal(4, 2)).state_dict())


@pytest.mark.parametrize("batch_size", [0, 2])
def test_only_drawn_particles_move(batch_size):
    """With momentum, a zero gradient would move a particle."""
    prior = GaussianMixture(normal(3, 2), torch.full((3,), 0.3))
    experiment = Experiment(("x",), method=SDS(2.0), particles=4, batch_size=batch_size, steps=6)
    run = Run(experiment, prior)
    for _ in range(6):
        before = torch.stack(list(run.representation.particles)).detach().clone()
        drawn = run.advance().inputs.particle
        moved = (torch.stack(list(run.representation.particles)) != before).any(1)
        assert moved.nonzero().flatten().tolist() == drawn.tolist()


def test_optimizer_state_of_another_shape_is_refused():
    first, second = tensors(True), tensors(False)
    first.gather(torch.arange(5)).sum().backward()
    adam = torch.optim.Adam(first.parameters())
    adam.step()
    with pytest.raises(ValueError, match=r"shape \[2\], not \[5, 2\]"):
        load_optimizer(torch.optim.Adam(second.parameters()), optimizer_tensors(adam))


@pytest.mark.slow
def test_thousands_of_particles_cost_little_more_than_one():
    """Particles used to cost 14 us each, as parameters of their own: 60 times the step of one."""
    prior = GaussianMixture(normal(8, 2), torch.full((8,), 0.1))
    runs = {
        n: Run(Experiment(("x",), method=SDS(7.5), particles=n, steps=60), prior) for n in (1, 4000)
    }
    times: dict[int, list[float]] = {n: [] for n in runs}
    for _ in range(60):
        for n, run in runs.items():
            start = time.process_time()
            run.advance()
            times[n].append(time.process_time() - start)
    assert statistics.median(times[4000]) < 8 * statistics.median(times[1])
