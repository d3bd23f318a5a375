"""What is learned before the first step is left out where it would not be used."""

import pytest
from run_folders import assert_same_run, experiment, record_run

from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.methods.lmc import LMC
from limbeck.priors.exact import colored_shapes
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run

METHOD = LMC(5.0, LearnedProjection(num_images=2, ddim_steps=3, pretrain_steps=4, batch_size=2))
SAMPLED_ROWS = 2 * 3 + 4 * 2  #: of the images, and of the steps that train on them


def test_counting_does_not_pretrain():
    prior = colored_shapes(size=12)
    calls = count_network_calls(METHOD, prior, "red disc", source="")
    assert calls.rows == (2, 2) and calls.grad_rows == (0, 0)
    assert prior.call_counter.rows == 2 * 2  # two steps and nothing else
    Run(experiment(method=METHOD), prior)
    assert prior.call_counter.rows == 2 * 2 + SAMPLED_ROWS


def test_a_continued_run_does_not_pretrain_again(tmp_path, monkeypatch):
    record_run(experiment(method=METHOD, steps=6), tmp_path / "once")
    half = tmp_path / "half"
    advance = Run.advance

    def stop_at_3(run):
        if run.step == 3:
            raise ValueError("stopped")
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", stop_at_3)
        with pytest.raises(ValueError, match="stopped"):
            record_run(experiment(method=METHOD, steps=6), half, checkpoint_every=3)
    pretrained = []
    monkeypatch.setattr(
        "limbeck.distillation.projections.learned._LearnedProjector.pretrain",
        lambda *args: pretrained.append(args),
    )
    record_run(experiment(method=METHOD, steps=6), half)
    assert not pretrained
    assert_same_run(tmp_path / "once", half)
