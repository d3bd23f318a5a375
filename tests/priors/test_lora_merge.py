"""LoRAs merged into the weights of a prior."""

import pytest
import torch
from family_pipelines import (
    diffusers_pipeline,
    load_family,
    predict_eps,
    train_lora_critic,
    with_network,
)
from safetensors.torch import load_file, save_file
from tiny_pipeline import WORDS, max_difference

pytestmark = pytest.mark.filterwarnings("ignore")


def write_lora(prior, folder, target, text_encoder=False, alpha=10):
    """Write a random LoRA with diffusers; return the pipeline in which it is active."""
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = diffusers_pipeline(prior, folder)
    network = getattr(pipe, prior.network_name)
    modules = [(prior.network_name, network, ["to_q", "to_k", "to_v", "to_out.0"])]
    if text_encoder:
        modules.append(("text_encoder", pipe.text_encoder, ["q_proj", "v_proj"]))
    options = {}
    torch.manual_seed(1)
    for name, module, targets in modules:
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        module.add_adapter(config, "own")
        for key, weight in module.named_parameters():
            weight.data *= 0.3 if "lora_" in key else 1.0
        options[f"{name}_lora_layers"] = get_peft_model_state_dict(module, adapter_name="own")
        options[f"{name}_lora_adapter_metadata"] = config.to_dict()
    type(pipe).save_lora_weights(target, **options)
    return pipe


@pytest.mark.parametrize("family", ["v", "xl", "pixel", "sd3", "flux"])
def test_a_merged_lora_is_that_of_diffusers(family, folders, tmp_path):
    folder, lora = folders(family), tmp_path / "lora"
    plain = load_family(family, folder)
    pipe = write_lora(plain, folder, lora)
    network = getattr(pipe, plain.network_name)
    conditions = plain.condition(WORDS[:3])
    for scale in (1.0, 0.5):
        prior = load_family(family, folder, lora=lora, lora_scale=scale)
        eps = predict_eps(prior, conditions)[0]
        network.set_adapters("own", scale)
        reference = with_network(load_family(family, folder), network)
        expected = predict_eps(reference, conditions)[0]
        assert max_difference(eps, expected) < 2e-5 * float(expected.abs().max())
        assert max_difference(eps, predict_eps(plain, conditions)[0]) > 1e-2


def test_a_lora_of_the_text_encoder_changes_the_embeddings(folders, tmp_path):
    folder = folders("eps")
    plain = load_family("eps", folder)
    pipe = write_lora(plain, folder, tmp_path, text_encoder=True)
    prior = load_family("eps", folder, lora=tmp_path / "pytorch_lora_weights.safetensors")
    embeddings = prior.condition(WORDS[:2]).data
    expected, _ = pipe.encode_prompt(WORDS[:2], "cpu", 1, False)
    assert max_difference(embeddings, expected) < 1e-5
    assert max_difference(embeddings, plain.condition(WORDS[:2]).data) > 1e-2


def test_a_kohya_file_is_the_same_lora(folders, tmp_path):
    plain = load_family("eps", folders("eps"))
    write_lora(plain, folders("eps"), tmp_path)
    kohya = {}
    for key, weight in load_file(tmp_path / "pytorch_lora_weights.safetensors").items():
        layer, matrix = key.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + layer.replace(".", "_")
        kohya[f"{name}.lora_{'down' if matrix == 'lora_A' else 'up'}.weight"] = weight
        kohya[f"{name}.alpha"] = torch.tensor(10.0)
    save_file(kohya, tmp_path / "kohya.safetensors")
    conditions = plain.condition(WORDS[:3])
    a, b = (
        predict_eps(load_family("eps", folders("eps"), lora=path), conditions)[0]
        for path in (tmp_path, tmp_path / "kohya.safetensors")
    )
    assert max_difference(a, b) < 1e-6 * float(a.abs().max()) + 1e-6


def test_a_lora_critic_can_be_trained_on_a_merged_lora(folders, tmp_path):
    write_lora(load_family("eps", folders("eps")), folders("eps"), tmp_path)
    prior = load_family("eps", folders("eps"), lora=tmp_path)
    conditions = prior.condition(WORDS[:3])
    before = predict_eps(prior, conditions)[0]
    run = train_lora_critic(prior, n=1)
    assert torch.equal(predict_eps(prior, conditions)[0], before)
    adapted = predict_eps(prior, conditions.with_adapters(run.state.adapters))[0]
    assert max_difference(adapted, before) > 1e-4


def test_a_lora_that_does_not_fit_is_refused(folders, tmp_path):
    write_lora(load_family("eps", folders("eps")), folders("eps"), tmp_path / "lora")
    with pytest.raises(ValueError, match="has no weights for a transformer, only for unet"):
        load_family("sd3", folders("sd3"), lora=tmp_path / "lora")
    with pytest.raises(ValueError, match="does not fit this unet"):
        load_family("xl", folders("xl"), lora=tmp_path / "lora")
    with pytest.raises(ValueError, match="no LoRA"):
        load_family("eps", folders("eps"), lora=tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read as a LoRA"):
        load_family("eps", folders("eps"), lora=tmp_path / "text.safetensors")
