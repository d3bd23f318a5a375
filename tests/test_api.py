"""The library's front door does what its README says."""

import limbeck as lb
from limbeck.priors.exact import coloured_shapes


def test_distill_holds_images_figures_and_a_report(tmp_path):
    prior = coloured_shapes(8)
    run = lb.distill(
        ["a red disc", "a blue ring"],
        prior,
        method=lb.methods.SDS(guidance=7.5),
        particles=2,
        steps=12,
    )
    assert (
        run.images.shape == (4, 3, 8, 8)
        and 0 <= float(run.images.min()) <= float(run.images.max()) <= 1
    )
    assert [line["step"] for line in run.metrics] == list(range(1, 13))
    assert run.report().read_text().startswith("<!doctype html>")
    kept = run.save(tmp_path / "kept")
    assert (kept / "run.yaml").read_text() == (run.folder / "run.yaml").read_text()


def test_the_loop_gives_the_same_particles_as_the_record(tmp_path):
    prior = coloured_shapes(8)
    choices = {"method": lb.methods.SDS(guidance=3.0), "particles": 2, "steps": 6, "seed": 3}
    run = lb.distill("a red disc", prior, tmp_path / "run", **choices)
    loop = lb.Run(lb.Experiment(("a red disc",), **choices), prior)
    for _ in range(6):
        loop.advance()
    assert all(
        (a == b).all()
        for a, b in zip(
            loop.representation.parameters(), run.run.representation.parameters(), strict=True
        )
    )
