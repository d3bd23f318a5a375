"""Vocabulary of the world: every caption is known, and the shipped model says so."""

import json

import numpy as np

from limbeck.diffusion.vocabulary import read_vocabulary
from limbeck.world.pretrained import WEIGHTS
from limbeck.world.scene import OBJECTS, random_captions, random_scenes
from limbeck.world.vocabulary import training_vocabulary, world_vocabulary


def test_every_word_of_every_caption_is_known_and_no_other():
    vocabulary, rng = world_vocabulary(), np.random.default_rng(0)
    captions = random_captions(random_scenes(2000, rng), rng)
    assert vocabulary.notices(captions) == []
    words = set(" ".join(captions).replace(",", " ").split())
    assert set(vocabulary.words) == words


def test_a_newcomer_reads_what_the_model_knows():
    unknown, known = world_vocabulary().notices(["a purple dragon riding a bicycle"])
    assert unknown.endswith('the model does not know "dragon", "riding", "bicycle"')
    for words in (*OBJECTS, "cyan", "checkered", "by a brick wall", "overhead view", "--model"):
        assert words in known
    assert world_vocabulary().notices(["a red car on a house"])[0] == (
        '"a red car on a house": the model has seen one object per image, not car with house'
    )
    # merges of the tokenizer are no words of captions
    assert world_vocabulary().unknown("a man with low hair") == ["man", "with", "low", "hair"]


def test_a_model_of_own_images_knows_the_words_of_their_captions(tmp_path):
    rows = [["a.png", "a grey heron", "a bird"], ["b.png", "a bird"]]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "captions.json").write_text(json.dumps(rows))
    vocabulary = training_vocabulary(tmp_path, "images")
    assert set(vocabulary.words) == {"a", "grey", "heron", "bird"} and vocabulary.kinds == ()
    further = training_vocabulary(tmp_path, "images", WEIGHTS)
    assert further.unknown("a striped grey heron on grass and a fish") == ["and", "fish"]
    assert training_vocabulary(tmp_path, "world", WEIGHTS) == world_vocabulary()


def test_the_shipped_weights_have_the_vocabulary_of_the_world():
    assert read_vocabulary(WEIGHTS) == world_vocabulary()
