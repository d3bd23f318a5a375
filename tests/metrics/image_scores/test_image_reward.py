"""ImageReward by transformers' BLIP against its definition in plain torch, on random weights."""

import pytest
import torch
from tiny_image_reward import SIZE, reward, write_image_reward

from limbeck.metrics.clip import MEAN, STD
from limbeck.metrics.image_scores.image_reward import ImageReward

PROMPTS = ["a yellow duck", "a red car", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_image_reward(tmp_path_factory.mktemp("reward") / "weights")


def test_scores_are_those_of_the_definition(folder):
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found = ImageReward(folder).score(images, PROMPTS)
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = [
        reward(weights, (image - mean) / std, prompt.split())
        for image, prompt in zip(images, PROMPTS, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=2e-5)
    assert found.std() > 0.1  # the images and prompts matter
    assert ImageReward(folder).score(images[:1], ["a duck yellow"]).item() != found[0].item()


def test_weights_of_another_model_are_refused(folder, tmp_path):
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    changes = {
        "it has extra.weight": weights | {"extra.weight": torch.zeros(1)},
        "Missing key": {k: v for k, v in weights.items() if "layer.1.crossattention" not in k},
        "is no ImageReward": {k: v for k, v in weights.items() if not k.startswith("mlp")},
        "must map names to tensors": {"state": weights},
    }
    for message, changed in changes.items():
        torch.save(changed, tmp_path / "ImageReward.pt")
        with pytest.raises(ValueError, match=message) as error:
            ImageReward(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "ImageReward.pt").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        ImageReward(tmp_path)


def test_a_missing_file_or_tokenizer_is_named(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no ImageReward\.pt"):
        ImageReward(tmp_path)
    (tmp_path / "ImageReward.pt").write_bytes((folder / "ImageReward.pt").read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(ValueError, match=r"put vocab\.txt of google-bert/bert-base-uncased beside"):
        ImageReward(tmp_path)
    with pytest.raises(ValueError, match="hf download THUDM/ImageReward"):
        ImageReward("THUDM/ImageReward")
