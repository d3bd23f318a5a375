"""What a 3D run is told of itself: figures against true objects, many-faced ones and counts by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch
from ball_representation import Ball, Object

from limbeck.cli.main import main
from limbeck.config import yaml as config
from limbeck.evaluation.judge import (
    Outcome,
    Shown,
    across,
    apart,
    by_clip,
    by_evaluator,
    family,
    frechet,
    judged_run,
    mean,
    opened,
    true_object,
)
from limbeck.evaluation.tables import table
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.metrics.clip import Clip
from limbeck.metrics.heldout_views import (
    RETRIEVED,
    RINGS,
    HeldOutImages,
    held_out_cameras,
    render_held_out,
    textureless,
)
from limbeck.metrics.r_precision import combinations, distractors, r_precision, seen_scores
from limbeck.metrics.view_consistency import BACK, FRONT, SIDE, side_of, view_figures
from limbeck.priors.exact import coloured_shapes
from limbeck.representations.dmtet import DMTet
from limbeck.representations.latents import Latents
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.world.evaluator import REJECT
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import COLOURS, OBJECTS, VIEWS, Scenes

DEGREE = math.pi / 180


@pytest.fixture(scope="module")
def evaluator():
    return load_evaluator()


@pytest.fixture(scope="module")
def world():
    """Of the world's size, and quicker to load: only its size matters here."""
    return coloured_shapes(size=64)


def run_of(folder, representation, prior=None, prompts=("a yellow duck",), done=1, **changes):
    """What a finished run of ``representation`` leaves that judging it needs."""
    e = Experiment(
        **{"prompts": prompts, "model": "world", "representation": representation, "steps": 1}
        | changes
    )
    folder.mkdir()
    (folder / "run.yaml").write_text(config.to_yaml(e))
    made = e.representation.build(prior or coloured_shapes(size=64), e.total, e.seed)
    tensors = {f"representation.{name}": value for name, value in made.state_dict().items()}
    write_checkpoint(folder / "checkpoint.safetensors", tensors, {"step": done})
    return folder


# the cameras


def test_the_cameras_are_32_on_three_rings():
    camera = held_out_cameras(3.6, 40.0)
    assert len(camera) == 32 and torch.equal(camera.pose, held_out_cameras(3.6, 40.0).pose)
    assert torch.allclose(camera.distance, torch.full((32,), 3.6)) and torch.allclose(
        camera.fov, torch.full((32,), 40 * DEGREE)
    )
    assert torch.allclose(camera[RETRIEVED].elevation, torch.full((16,), 30 * DEGREE))
    elevations = torch.cat([torch.full((count,), e) for e, count, _ in RINGS])
    assert torch.allclose(camera.elevation / DEGREE, elevations, atol=1e-3)


def test_no_camera_stands_on_the_border_of_two_sides():
    turned = held_out_cameras(3.6, 40.0).azimuth.abs() / DEGREE
    assert ((turned - 45).abs().min() > 5) and ((turned - 135).abs().min() > 5)


def test_sides_are_those_of_the_world():
    rng = torch.Generator().manual_seed(0)
    azimuth, elevation = (
        (torch.rand(500, generator=rng) * 2 - 1) * math.pi,
        torch.rand(500, generator=rng) * 80 * DEGREE,
    )
    zero = torch.zeros(500, dtype=torch.int64).numpy()
    scenes = Scenes(
        zero,
        zero,
        zero,
        zero,
        azimuth.double().numpy(),
        elevation.double().numpy(),
        zero + 3.6,
        zero + 1.0,
    )
    assert side_of(orbit_cameras(azimuth, elevation, 3.6, 40.0)).tolist() == scenes.view.tolist()


# the shape alone


def test_textureless_is_lambert_under_the_lamp_of_the_camera():
    camera = orbit_cameras(torch.tensor([0.7]), torch.tensor([0.3]), 3.6, 40.0)
    turn = camera.pose[0, :3, :3]
    lamp = torch.nn.functional.normalize(turn @ torch.tensor([-0.45, 0.75, 0.55]), dim=0)
    sideways = torch.linalg.cross(lamp, torch.tensor([0.0, 1.0, 0.0]))
    normals = torch.stack([lamp, -lamp, sideways, lamp + sideways / sideways.norm()], 1).view(
        1, 3, 2, 2
    )
    image = textureless(torch.ones(1, 1, 2, 2), normals, camera)[0]
    expected = [0.95, 0.95 * 0.42, 0.95 * 0.42, 0.95 * (0.42 + 0.62 / 2**0.5)]
    assert torch.allclose(image, torch.tensor(expected).view(1, 2, 2).expand(3, 2, 2), atol=1e-5)
    assert torch.allclose(
        textureless(torch.ones(1, 1, 2, 2), 0.3 * normals, camera)[0], image, atol=1e-6
    )
    clear = textureless(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2), camera)[0]
    assert torch.equal(clear[:, 0, 0], clear[:, 0, 1]) and (clear[2] > clear[0]).all()


def test_textureless_knows_no_colour():
    balls = Ball().build(coloured_shapes(size=16), 2, 0)
    a, b = (
        render_held_out(balls, coloured_shapes(size=16), k, held_out_cameras(3.6, 40.0)[:4])
        for k in (0, 1)
    )
    assert not torch.allclose(a.images, b.images, atol=0.05) and torch.equal(a.shapes, b.shapes)


def test_the_world_s_relief_agrees_with_its_pictures():
    """Where the drawn object covers the picture, and where the white one does."""
    true = true_object("a red sphere in the sky", held_out_cameras(3.6, 40.0))
    white = (true.shapes[:, 0] - true.shapes[:, 2]).abs() < 1e-3  # the sky is bluer than red
    red = true.images[:, 0] > true.images[:, 2]
    assert true.shapes.shape == (32, 3, 64, 64)
    assert (
        white == red
    ).float().mean() > 0.985 and 0.2 < white.float().mean() < 0.6  # but for pixels at the edge


# retrieval and sides, by hand


def test_r_precision_counts_rows_whose_own_text_wins():
    scores = torch.tensor([[3.0, 1, 2], [1, 3, 2], [2, 2, 1], [5, -1, 4.9]])
    assert (
        r_precision(scores, 0) == 0.5
        and r_precision(scores, 1) == 0.25
        and r_precision(scores, 2) == 0.0
    )
    with pytest.raises(ValueError, match="only the prompt itself"):
        r_precision(scores[:, :1], 0)


def test_prompts_are_told_apart_from_all_others_of_their_kind():
    assert len(combinations("a yellow duck")) == 140 == len(set(combinations("a yellow duck")))
    assert combinations("a yellow duck")[0] == (OBJECTS.index("duck"), COLOURS.index("yellow"))
    assert len(combinations("a duck")) == 14 and combinations("a dream") == ()
    texts = distractors("a striped yellow duck on grass")
    assert (
        len(texts) == 139
        and "a striped blue duck on grass" in texts
        and "a striped yellow duck on grass" not in texts
    )
    assert "an orange" not in " ".join(distractors("a duck"))


def test_scores_of_the_evaluator_are_of_object_and_colour():
    rng = torch.Generator().manual_seed(1)
    logits = {
        "object": torch.randn(50, 15, generator=rng),
        "colour": torch.randn(50, 10, generator=rng),
    }
    both = (logits["object"][:, :14].argmax(1) == 11) & (logits["colour"].argmax(1) == 3)
    assert r_precision(seen_scores(logits, "a yellow duck"), 0) == pytest.approx(
        both.float().mean().item()
    )
    alone = (logits["object"][:, :14].argmax(1) == 11).float().mean().item()
    assert r_precision(seen_scores(logits, "a yellow duck", geometry=True), 0) == pytest.approx(
        alone
    )
    assert r_precision(seen_scores(logits, "a duck"), 0) == pytest.approx(alone)


def test_view_figures_by_hand():
    sides = torch.tensor([FRONT, SIDE, SIDE, BACK, BACK, BACK, BACK])
    seen = [FRONT, SIDE, FRONT, FRONT, BACK, FRONT, SIDE]
    verdicts = torch.tensor([[11, 3, 0, 0, view] for view in seen])
    verdicts[5, 0] = REJECT  # no object, no face
    assert view_figures(verdicts, sides) == pytest.approx(
        {"view": 3 / 7, "janus": 1 / 4, "janus_side": 1 / 2}
    )
    assert "janus" not in view_figures(verdicts[:3], sides[:3])


def test_diversity_compares_the_same_side_of_different_particles():
    ramp = (
        torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    )  # one particle, four very different sides
    assert apart([HeldOutImages(ramp, None)]) == {}
    assert apart([HeldOutImages(ramp, None), HeldOutImages(ramp, None)])["diversity"] == 0
    assert apart([HeldOutImages(ramp, None), HeldOutImages(ramp * 0, None)])[
        "diversity"
    ] == pytest.approx(ramp.mean().item(), abs=1e-6)


def shown(*greys, sides=2, features=None):
    """Particles of one grey each, the second side of each half as light."""
    images = torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1, 1).repeat(1, sides, 3, 4, 4)
    images[:, 1:] //= 2
    return Shown(images, features)


def test_diversity_across_seeds_is_between_particles_of_different_runs_by_hand():
    assert (
        across([(0, shown(0, 200))]) == {} == across([(3, shown(0)), (3, shown(200))])
    )  # one seed, twice at most
    two = across([(0, shown(0)), (1, shown(200))])
    assert two == {"diversity_seeds": pytest.approx((200 + 100) / 2 / 255)}
    # the particles of one run may be as far apart as they like: (20 + 220 + 60 + 140) / 4 between the runs
    assert across([(0, shown(0, 80)), (1, shown(20, 220))])["diversity_seeds"] == pytest.approx(
        110 * 0.75 / 255
    )
    three = across([(0, shown(0)), (1, shown(0)), (2, shown(100))])
    assert three["diversity_seeds"] == pytest.approx(200 / 3 * 0.75 / 255)


def test_across_seeds_compares_the_same_side():
    turned = Shown(shown(0, 200).images[:, [1, 0]])
    assert across([(0, shown(100)), (1, Shown(shown(100).images[:, [1, 0]]))])[
        "diversity_seeds"
    ] == pytest.approx(50 / 255)
    assert across([(0, turned), (1, turned)])["diversity_seeds"] == pytest.approx(
        75 / 255
    )  # by half, of unlike particles


def test_across_seeds_in_features_is_one_minus_the_cosine():
    x, y = (
        torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]),
        torch.tensor([[[3.0, 3.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -5.0]]]),
    )
    told = across([(0, shown(0, features=x)), (1, shown(0, 0, features=y))])
    assert (
        told["feature_diversity_seeds"] == pytest.approx(((1 - 0.5**0.5) + 1 + 0 + 2) / 4)
        and told["diversity_seeds"] == 0
    )


def test_across_seeds_agrees_with_diversity_where_each_run_has_one_particle():
    images = torch.rand(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stored = (images * 255).round().byte()
    told = across([(seed, Shown(stored[seed : seed + 1])) for seed in (0, 1)])
    within = apart([HeldOutImages(particle / 255, None) for particle in stored])
    assert told["diversity_seeds"] == pytest.approx(within["diversity"], abs=1e-9)


# true objects and false ones


def judged_thing(evaluator, world, **what):
    thing = Object(**what)
    prompt = f"a {thing.colour} {thing.object}"
    camera = held_out_cameras(3.6, 40.0)
    return by_evaluator(
        prompt, [render_held_out(thing.build(world, 1, 0), world, 0, camera)], camera, evaluator
    )


def test_a_true_duck_gets_nearly_everything(evaluator, world):
    told = judged_thing(evaluator, world)
    assert (
        told.figures["object"] >= 0.9
        and told.figures["colour"] >= 0.95
        and told.figures["r_precision"] >= 0.9
    )
    assert (
        told.figures["view"] >= 0.85
        and told.figures["janus"] == 0
        and told.figures["rejected"] <= 0.1
    )
    assert (
        len(told.verdicts) == 1
        and len(told.verdicts[0]) == 32
        and "duck yellow plain" in told.verdicts[0][0]
    )


def test_a_duck_with_a_face_on_every_side_is_found_out(evaluator, world):
    told = judged_thing(evaluator, world, faces=8)
    assert (
        told.figures["object"] >= 0.8
        and told.figures["janus"] >= 0.9
        and told.figures["view"] <= 0.6
    )
    two = judged_thing(evaluator, world, faces=2)
    assert two.figures["janus"] >= 0.9 and two.figures["janus_side"] <= 0.2


def test_what_has_no_sides_gets_no_view_figures(evaluator, world):
    told = judged_thing(evaluator, world, object="cone", colour="red")
    assert told.figures["object"] >= 0.9 and not {"view", "janus", "janus_side"} & set(told.figures)


def test_another_object_is_another_object(evaluator, world):
    camera = held_out_cameras(3.6, 40.0)
    seen = render_held_out(Object("car", "red").build(world, 1, 0), world, 0, camera)
    told = by_evaluator("a yellow duck", [seen], camera, evaluator).figures
    assert max(told[name] for name in ("object", "colour", "r_precision", "all")) <= 0.05


def test_frechet_is_told_of_enough_pictures_only():
    rng = torch.Generator().manual_seed(0)
    pair = lambda n, shift: (
        torch.randn(n, 4, generator=rng),
        torch.randn(n, 4, generator=rng) + shift,
    )  # noqa: E731
    assert frechet([pair(100, 0.0), pair(100, 0.0)]) == {}
    assert frechet([pair(4000, 0.0)])["frechet"] < 0.05 and frechet([pair(4000, 2.0)])[
        "frechet"
    ] == pytest.approx(16, rel=0.1)


# CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights in the layout of a download."""
    from transformers import CLIPConfig, CLIPModel

    from limbeck.world.denoiser import build_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    words = [*distractors("a yellow duck"), "a yellow duck"]
    tokenizer = build_tokenizer(words, folder / "words")
    tokenizer.model_max_length = 16
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
        config = CLIPConfig(
            text_config=text,
            vision_config={**small, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_scores_are_the_cosines_of_its_model(clip_folder):
    clip = Clip(clip_folder)
    images, texts = (
        torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        ["a yellow duck", "a red car", "a cone"],
    )
    words = clip.tokenizer(texts, padding=True, return_tensors="pt")
    mean, deviation = (
        torch.tensor(x)[:, None, None]
        for x in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    with torch.no_grad():
        out = clip.model(**words, pixel_values=(images - mean) / deviation)
    assert torch.allclose(
        clip.scores(images, texts) * clip.model.logit_scale.exp(), out.logits_per_image, atol=1e-4
    )
    assert torch.allclose(
        clip.scores(images, texts * 20)[:, 3:6], clip.scores(images, texts), atol=1e-5
    )  # in chunks


def test_clip_is_asked_about_colour_and_shape(clip_folder, world):
    clip, camera = Clip(clip_folder), held_out_cameras(3.6, 40.0)
    seen = render_held_out(Object().build(world, 1, 0), world, 0, camera)
    told = by_clip("a yellow duck", [seen], clip, ["a yellow duck"])
    texts = ["a yellow duck", *distractors("a yellow duck")]
    assert (
        told["clip"] == r_precision(clip.scores(seen.images[:16], texts), 0)
        and 0 <= told["clip_shape"] <= 1
    )
    with pytest.raises(ValueError, match="needs other texts"):
        by_clip("a dream", [seen], clip, ["a dream"])


def test_a_folder_without_clip_is_refused(tmp_path, eps_folder):
    for folder in (tmp_path, eps_folder):
        with pytest.raises(ValueError, match="holds no CLIP model"):
            Clip(folder)


# runs and the command


def test_a_run_is_judged_as_its_particles_are(tmp_path, evaluator, world):
    run = opened(run_of(tmp_path / "run", Object(), particles=2))
    done = judged_run(run, world, evaluator)
    told, features = done.conditions, done.features
    one = judged_thing(evaluator, world)
    row = told["prompts"][0]
    assert row["object"] == one.figures["object"] and row["seen"] == [one.verdicts[0]] * 2
    assert done.seed == 0 and done.shown["a yellow duck"].images.shape == (2, 32, 3, 64, 64)
    assert row["particles"] == [one.figures] * 2 == one.each * 2
    assert row["diversity"] == 0 and len(features[0][0]) == 64 == len(features[0][1])
    assert row["truth"].keys() == one.figures.keys() and told["mean"]["janus"] == row["janus"]
    assert told["sides"][:2] == ["front", "front"] and told["sides"][-1] == VIEWS[3]


def test_eval_writes_a_line_a_file_and_a_table(tmp_path, capsys):
    a = run_of(tmp_path / "a", Object())
    b = run_of(tmp_path / "b", Object(), seed=1)
    c = run_of(tmp_path / "c", Object(faces=8))
    assert main(["eval", str(a), str(b), str(c), "--device", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{a / 'eval.json'}: object ") and "Janus 0 %" in out[0]
    told = json.loads((a / "eval.json").read_text())
    assert (
        told["cameras"]["distance"] == pytest.approx(3.6)
        and told["prompts"][0]["prompt"] == "a yellow duck"
    )
    rows = [line for line in out if line.startswith("| a yellow duck")]
    assert [row.split("|")[2].strip() for row in rows] == [
        "2",
        "1",
    ]  # two seeds of one family, one run of another
    heads = [
        [cell.strip() for cell in line.split("|")] for line in out if line.startswith("| prompt")
    ]
    assert (
        "across seeds" in heads[0]
        and "across seeds" not in heads[1]
        and "diversity" not in heads[0]
    )
    assert [cell.strip() for cell in rows[0].split("|")][
        heads[0].index("across seeds")
    ] == "0.000"  # the same duck twice
    assert out.count("across seeds: between particles of runs of different seeds") == 1
    page = (c / "report.html").read_text()
    janus = json.loads((c / "eval.json").read_text())["mean"]["janus"]
    assert (
        "From 32 held-out cameras" in page
        and "duck yellow plain" in page
        and f"<td>{100 * janus:.0f} %</td>" in page
    )
    assert not list(tmp_path.rglob("*.part"))


def test_families_are_runs_that_differ_in_prompts_and_seed_only():
    e = Experiment(("a yellow duck",), representation=Object())
    assert (
        family(e)
        == family(replace(e, prompts=("a red car",), seed=4))
        != family(replace(e, steps=7))
    )


def test_a_recipe_is_judged_by_its_last_stage(tmp_path):
    for name in ("1-field", "2-geometry", "10-texture"):
        (tmp_path / "recipe").mkdir(exist_ok=True)
        run_of(tmp_path / "recipe" / name, Object())
    assert opened(tmp_path / "recipe").folder.name == "10-texture"
    one, two = (
        replace(
            Experiment(("a red car",), representation=DMTet()),
            representation=DMTet(init_from=tmp_path / x),
        )
        for x in "ab"
    )
    assert family(one) == family(two)


def test_the_table_is_a_mean_over_seeds_then_over_prompts():
    rows = [("duck", 1.0), ("duck", 0.5), ("car", 0.0)]
    told = [{"prompts": [{"prompt": p, "object": v, "truth": {"object": 1.0}}]} for p, v in rows]
    done = [Outcome("f", seed, one) for seed, one in enumerate(told)]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(done).splitlines()
        if line.startswith("|")
    ]
    assert lines[0] == ["prompt", "runs", "object"]
    assert lines[2:] == [
        ["duck", "2", "75 %"],
        ["car", "1", "0 %"],
        ["mean", "", "38 %"],
        ["true objects", "", "100 %"],
    ]
    assert mean([{"a": 1.0}, {"a": 0.0, "b": 3.0}]) == {"a": 0.5, "b": 3.0}


def test_the_table_says_what_diversity_is_between():
    told = {"prompts": [{"prompt": "duck", "diversity": 0.25}]}
    done = [
        Outcome("f", seed, told, shown={"duck": shown(seed * 51, sides=1)}) for seed in (0, 1, 1)
    ]
    lines = table(
        [
            *done,
            Outcome(
                "f", 2, {"prompts": [{"prompt": "car", "object": 1.0}]}, shown={"car": shown(0)}
            ),
        ]
    ).splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    assert cells[0] == ["prompt", "runs", "object", "diversity", "across seeds"]
    assert cells[2:] == [
        ["duck", "3", "-", "0.250", "0.200"], ["car", "1", "100 %", "-", "-"], ["mean", "", "100 %", "0.250", "0.200"],
    ]  # fmt: skip
    assert (
        lines[-1]
        == "diversity: between particles of one run; across seeds: between particles of runs of different seeds"
    )


def refused(capsys, *argv):
    assert main(list(argv)) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    return err[0]


def test_what_cannot_be_judged_is_told_in_a_line(tmp_path, capsys):
    assert "a run folder is missing" in refused(capsys, "eval")
    assert "no run.yaml" in refused(capsys, "eval", str(tmp_path))
    flat = run_of(tmp_path / "flat", Latents(), model="gaussians", prompts=("a red disc",))
    assert "is flat: latents have no sides" in refused(capsys, "eval", str(flat))
    done = run_of(tmp_path / "done", Object(), steps=9)
    assert "is unfinished, 1 of 9 steps" in refused(capsys, "eval", str(done))
    (done / "checkpoint.safetensors").unlink()
    assert "is unfinished, 0 of 9 steps" in refused(capsys, "eval", str(done))
    foreign = run_of(tmp_path / "foreign", Ball(), model="gaussians", prompts=("a red disc",))
    assert "give CLIP weights with --clip FOLDER" in refused(capsys, "eval", str(foreign))
    assert "--texts are for CLIP" in refused(capsys, "eval", str(foreign), "--texts", "x.txt")


def test_clip_judges_a_foreign_run_by_the_same_command(tmp_path, clip_folder, capsys):
    foreign = run_of(tmp_path / "foreign", Ball(), model="gaussians", prompts=("a red disc",))
    (tmp_path / "texts").write_text("a red car\n\na cone\n")
    assert (
        main(
            [
                "eval",
                str(foreign),
                "--clip",
                str(clip_folder),
                "--texts",
                str(tmp_path / "texts"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    row = json.loads((foreign / "eval.json").read_text())["prompts"][0]
    assert set(row) == {"prompt", "clip", "clip_shape"}
