"""Long prompts in every model family: added words survive, what is lost is said."""

import itertools
import re
from dataclasses import dataclass

import pytest
import torch
from family_pipelines import load_family
from tiny_pipeline import LENGTH, max_difference

from limbeck.diffusion.condition import same_rows
from limbeck.diffusion.prompts import extend_prompt
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.priors.prompt_limits import FittedPrompt, TokenLimit, fit_prompt
from limbeck.representations.nerf import NeRF
from limbeck.system.notices import collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.run_prompts import prompts_by_view
from limbeck.training.trainer import Run

VIEWS = ("red", "blue", "two cats", "low")  # words of the tiny tokenizers
# longer than CLIP's 12 tokens here, and than the 512 words or letters that others read
LONG = "a red mug, two striped cats on grey and " * 64 + "a blue chair"
# too long for CLIP, and not for the T5 of SD3 and Flux
MEDIUM = "a red mug and a blue chair on grey and two cats, low, a mug"


def encoder_names(prior):
    """Names of the text encoders, by the folders of the model."""
    return sorted(path.name for path in prior.files.folder.glob("text_encoder*"))


def recorded_texts(prior, monkeypatch):
    """The texts that each tokenizer is given to encode, by the number of the encoder."""
    texts = []
    fit = type(prior)._fit_prompts

    def recorded(self, prompts, *limits):
        texts.append((limits, fit(self, prompts, *limits)))
        return texts[-1][1]

    monkeypatch.setattr(type(prior), "_fit_prompts", recorded)
    return texts


def test_the_four_views_of_a_long_prompt_differ(family, folders, capfd, monkeypatch):
    prior = load_family(family, folders(family))
    texts = recorded_texts(prior, monkeypatch)
    cameras = Orbit(view_prompts=VIEWS)
    prompts = prompts_by_view(Experiment((LONG,), representation=NeRF(), cameras=cameras), prior)
    with collect_notices() as notices:
        views = prior.condition(prompts)
    for i, j in itertools.combinations(range(4), 2):
        assert max_difference(views.data[i], views.data[j]) > 1e-3
    ((limits, fitted),) = texts
    assert sorted(limit.encoder for limit in limits) == encoder_names(prior)
    for limit, of_encoder in zip(limits, fitted, strict=True):
        # the words of the views are in, and no further word of the prompt would be
        order = [text.rsplit(", ", 1)[1] for text in of_encoder]
        assert sorted(order) == sorted(VIEWS)
        for text, view in zip(of_encoder, order, strict=True):
            kept = text.removesuffix(f", {view}")
            assert LONG.startswith(kept) and limit.fits(text)
            following = re.match(r"\W*\w+", LONG[len(kept) :])
            assert kept == LONG or not limit.fits(kept + following[0] + f", {view}")
    (notice,) = notices
    assert notice.startswith(
        'the prompt "a red mug, two striped cats on grey and a red mug, two st'
    )
    assert re.search(rf'" is not read by .* stops? after {limits[0].tokens} tokens', notice)
    assert notice.endswith("; shorten the prompt, or put what matters first")
    out, err = capfd.readouterr()
    assert "truncated" not in out + err and "Token indices" not in out + err


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_an_encoder_that_reads_all_of_a_prompt_is_given_all_of_it(family, folders, monkeypatch):
    prior = load_family(family, folders(family))
    texts = recorded_texts(prior, monkeypatch)
    prompt = extend_prompt(MEDIUM, ", cats")
    with collect_notices() as notices:
        prior.condition([prompt])
    ((limits, fitted),) = texts
    assert fitted[-1] == [prompt] and limits[-1].tokens > 77
    assert all(of_encoder[0].endswith(", cats") for of_encoder in fitted[:-1])
    assert all(len(of_encoder[0]) < len(prompt) for of_encoder in fitted[:-1])
    (notice,) = notices
    assert f"; {limits[-1].encoder} reads all of it; shorten the prompt" in notice


@pytest.mark.parametrize("family", ["sana", "lumina2", "klein", "qwen"])
def test_the_last_word_within_the_limit_is_read_and_the_next_is_not(family, folders, monkeypatch):
    """The limit leaves out the words of the instruction or chat that the model adds."""
    prior = load_family(family, folders(family))
    texts = recorded_texts(prior, monkeypatch)
    prior.condition(["red"])
    limit = texts[0][0][0]
    most = limit.tokens - 1  # one is the start of a text
    for words, is_read in ((most, True), (most + 1, False)):
        prompts = [" ".join(["red"] * (words - 1) + [last]) for last in ("cats", "blue")]
        assert limit.fits(prompts[0]) == is_read
        cats, blue = (prior.condition([prompt]) for prompt in prompts)
        # causal text encoders: the last word changes its own token and those of the chat after it
        assert same_rows(cats, blue) != is_read


def test_a_notice_is_given_for_every_run_that_shares_the_model(folders):
    prior = load_family("v", folders("v"))
    for _ in range(2):
        with collect_notices() as notices:
            prior.condition([LONG])
        assert len(notices) == 1
    with collect_notices() as notices:
        prior.condition(["a red mug"])
    assert notices == []


def test_added_words_that_leave_no_room_are_refused(family, folders):
    prior = load_family(family, folders(family))
    words = ", " + "two striped cats " * 200
    with pytest.raises(ValueError, match=r"two striped cats.* is too long for the \d+ tokens that"):
        prior.condition([extend_prompt("a red mug", words)])


def test_added_words_that_encode_the_same_are_refused(folders):
    prior = load_family("pixel", folders("pixel"))  # its tokenizer knows letters only
    for prompt in ("a mug", LONG):
        texts = [extend_prompt(prompt, f", {digit}") for digit in "12"]
        assert not same_rows(prior.condition(["a"]), prior.condition(["b"]))
        with pytest.raises(ValueError, match="', 1' and ', 2' after a prompt are the same"):
            prior.condition(texts)


def test_a_3d_run_refuses_views_that_encode_the_same(folders):
    prior = load_family("v", folders("v"))
    cameras = Orbit(view_prompts=("low", "Low", "red", "blue"))
    small = NeRF(occupancy_resolution=8)
    experiment = Experiment(("a red mug",), representation=small, cameras=cameras)
    with pytest.raises(ValueError, match="', low' and ', Low' after a prompt"):
        Run(experiment, prior)


@dataclass(frozen=True)
class Letters:
    """A tokenizer of letters, without start and end."""

    def __call__(self, text, truncation, verbose):
        assert not truncation and not verbose
        return type("Encoding", (), {"input_ids": list(text)})


@pytest.mark.parametrize(
    ("prompt", "added", "tokens", "text", "lost"),
    [
        ("one two", ", x", 10, "one two, x", ""),
        ("one two", ", x", 9, "one, x", "two"),
        ("one, two", ", x", 9, "one, x", "two"),
        ("one two", ", x", 6, "one, x", "two"),
        ("日本語の文", "、x", 5, "日本語、x", "の文"),
        ("one two", "", 6, "one two", "two"),
        ("日本語の文", "", 3, "日本語の文", "の文"),
    ],
)
def test_a_prompt_is_cut_after_its_last_word_that_fits(prompt, added, tokens, text, lost):
    limit = TokenLimit("text_encoder", Letters(), tokens)
    assert fit_prompt(extend_prompt(prompt, added), limit) == FittedPrompt(text, lost)


def test_no_word_of_the_prompt_fits():
    with pytest.raises(ValueError, match='"cats and dogs" is too long for the 11 tokens'):
        fit_prompt(extend_prompt("ab", ", cats and dogs"), TokenLimit("encoder", Letters(), 11))


def test_the_clip_limit_is_that_of_the_tokenizer(folders):
    assert LENGTH == 12
    prior = load_family("eps", folders("eps"))
    whole, cut = "a red mug " * 3, "a red mug " * 4  # 9 and 12 words, and two special tokens
    with collect_notices() as notices:
        prior.condition([whole, cut])
    assert [re.search(': "(.*)" is not read', text)[1] for text in notices] == ["red mug"]
    assert torch.isfinite(prior.condition([cut]).data).all()
