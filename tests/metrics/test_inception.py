"""Features of a TorchScript network in the layout of that of FID."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import write_clip
from world_images import write_world_images

from limbeck.cli.main import main
from limbeck.metrics.inception import InceptionFeatures
from limbeck.metrics.vendi import vendi_score


class Network(torch.nn.Module):
    """Means over 2 x 2 fields through a linear layer; only its ``layers`` are used."""

    def __init__(self):
        super().__init__()
        pool = torch.nn.AdaptiveAvgPool2d(2)
        self.layers = torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(12, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x * 0)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The file, weight and bias."""
    path = tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt"
    torch.manual_seed(0)
    net = Network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(str(path))
    linear = net.layers[2]
    return path, linear.weight.detach().numpy(), linear.bias.detach().numpy()


def expected_features(path, weight, bias):
    """clean-fid: each channel resized in floating point by PIL, clipped, shifted and scaled."""
    channels = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1)
    resized = [
        np.asarray(Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC))
        for c in channels
    ]
    pixels = (np.clip(np.stack(resized), 0, 255) - 128) / 128
    with torch.no_grad():
        fields = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(pixels)[None], 2)
    return fields.flatten().numpy() @ weight.T + bias


def test_sets_are_compared_in_its_features_and_clip_scores_stay(network, tmp_path):
    path, weight, bias = network
    prompts = write_world_images(tmp_path / "images", 6)
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    argv = ["eval", str(tmp_path / "images"), "--prompts", str(tmp_path / "prompts.txt")]
    argv += ["--device", "cpu", "--clip", str(write_clip(tmp_path / "clip"))]
    reports = []
    for extra in ([], ["--inception", str(path)]):
        out = tmp_path / f"{len(reports)}.json"
        assert main([*argv, *extra, "--out", str(out)]) == 0
        reports.append(json.loads(out.read_text()))
    features = torch.tensor(
        np.stack(
            [
                expected_features(tmp_path / "images" / f"img-{i}.png", weight, bias)
                for i in range(6)
            ]
        )
    )
    alone, both = (report["sets"][0]["metrics"] for report in reports)
    assert both["vendi"]["value"] == pytest.approx(vendi_score(features), abs=2e-4)
    assert both["vendi"]["value"] != pytest.approx(alone["vendi"]["value"], abs=0.01)
    assert both["clip_score"] == alone["clip_score"]
    assert both["clip_r_precision"] == alone["clip_r_precision"]
    assert reports[1]["features"] == "Inception (inception-2015-12-05.pt)"


def test_features_of_noise_are_those_of_clean_fid(network, tmp_path):
    path, weight, bias = network
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    image = torch.tensor(noise).permute(2, 0, 1)[None] / 255
    resize = torch.nn.functional.interpolate
    small = resize(image, (299, 299), mode="bicubic", antialias=True).clamp(0, 1)
    found = InceptionFeatures(path).embed(small)[0].numpy()
    assert found == pytest.approx(expected_features(tmp_path / "x.png", weight, bias), abs=1e-4)


def test_another_file_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no such file"):
        InceptionFeatures(tmp_path / "none.pt")
    other = tmp_path / "other.pt"
    other.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"is no inception-2015-12-05\.pt") as error:
        InceptionFeatures(other)
    assert "\n" not in str(error.value)
