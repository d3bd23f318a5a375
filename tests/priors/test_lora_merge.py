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
from lora_layouts import (
    RANK,
    in_diffusers_layout,
    in_kohya_layout,
    in_old_layout,
    read_pairs,
    save,
    write_peft_lora,
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


@pytest.mark.parametrize(
    "family", ["v", "xl", "pixel", "sd3", "flux", "sana", "lumina2", "klein", "qwen"]
)
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
    with pytest.raises(ValueError, match="has weights for unet, this model has transformer"):
        load_family("sd3", folders("sd3"), lora=tmp_path / "lora")
    with pytest.raises(ValueError, match="does not fit this unet"):
        load_family("xl", folders("xl"), lora=tmp_path / "lora")
    with pytest.raises(ValueError, match="no LoRA"):
        load_family("eps", folders("eps"), lora=tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a readable"):
        load_family("eps", folders("eps"), lora=tmp_path / "text.safetensors")


# every layout, whole or refused


def eps_with_lora(folders, lora):
    prior = load_family("eps", folders("eps"), lora=lora)
    return predict_eps(prior, prior.condition(WORDS[:3]))[0]


def eps_of_network(folders, network):
    prior = with_network(load_family("eps", folders("eps")), network)
    return predict_eps(prior, prior.condition(WORDS[:3]))[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"attn2.to_k": 3}},
        {"target_modules": ["conv1", "proj_in", "ff.net.2", "time_emb_proj", "to_q"]},
    ],
    ids=["alpha", "rslora", "patterns", "convolutions"],
)
def test_a_lora_saved_by_peft_is_merged_with_its_scale(options, folders, tmp_path):
    network = write_peft_lora(folders("eps"), tmp_path, **options)
    expected = eps_of_network(folders, network)
    assert max_difference(eps_with_lora(folders, tmp_path), expected) < 1e-5
    plain = predict_eps(prior := load_family("eps", folders("eps")), prior.condition(WORDS[:3]))[0]
    assert max_difference(plain, expected) > 0.1


LAYOUTS = {
    "diffusers": in_diffusers_layout,
    "no-prefix": lambda pairs: {
        key.removeprefix("unet."): value for key, value in in_diffusers_layout(pairs).items()
    },
    "processors": in_old_layout,
    "processors-prefix": lambda pairs: in_old_layout(pairs, "unet."),
    "kohya": in_kohya_layout,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_lora(layout, folders, tmp_path):
    network = write_peft_lora(folders("eps"), tmp_path, lora_alpha=RANK)
    file = save(LAYOUTS[layout](read_pairs(tmp_path)), tmp_path / "other.safetensors")
    expected = eps_of_network(folders, network)
    assert max_difference(eps_with_lora(folders, file), expected) < 1e-5


def test_a_kohya_file_of_some_layers_with_alpha_is_merged(folders, tmp_path):
    network = write_peft_lora(folders("eps"), tmp_path, lora_alpha=2, target_modules=["to_q"])
    tensors = in_kohya_layout(read_pairs(tmp_path))
    alphas = {key.split(".")[0] + ".alpha": torch.tensor(2.0) for key in tensors}
    file = save(tensors | alphas, tmp_path / "kohya.safetensors")
    expected = eps_of_network(folders, network)
    assert max_difference(eps_with_lora(folders, file), expected) < 1e-5


def test_a_kohya_file_of_the_text_encoder_is_that_of_diffusers(folders, tmp_path):
    write_lora(load_family("eps", folders("eps")), folders("eps"), tmp_path, text_encoder=True)
    kohya = {}
    for key, weight in load_file(tmp_path / "pytorch_lora_weights.safetensors").items():
        component, name = key.removesuffix(".weight").split(".", 1)
        layer, matrix = name.rsplit(".", 1)
        if component == "text_encoder" and not layer.startswith("text_model."):
            layer = f"text_model.{layer}"
        name = f"lora_{'te' if component != 'unet' else 'unet'}_" + layer.replace(".", "_")
        kohya[f"{name}.lora_{'down' if matrix == 'lora_A' else 'up'}.weight"] = weight
        kohya[f"{name}.alpha"] = torch.tensor(10.0)
    save(kohya, tmp_path / "kohya.safetensors")
    a, b = (
        load_family("eps", folders("eps"), lora=path).condition(WORDS[:2]).data
        for path in (tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "kohya.safetensors")
    )
    assert max_difference(a, b) < 1e-6
    assert max_difference(a, load_family("eps", folders("eps")).condition(WORDS[:2]).data) > 1e-2


def first(tensors, kind):
    return min(key for key in tensors if kind in key)


#: What is wrong with a file, as a function of its tensors in the layout of diffusers.
BROKEN = {
    "a missing B": (
        lambda t: {k: v for k, v in t.items() if k != first(t, "lora_B")},
        "has A but no B: the file is incomplete",
    ),
    "a missing A": (
        lambda t: {k: v for k, v in t.items() if k != first(t, "lora_A")},
        "has B but no A: the file is incomplete",
    ),
    "an unknown layer": (
        lambda t: t | {f"unet.down.to_q.lora_{k}.weight": torch.ones(4, 4) for k in "AB"},
        "which has no layer down.to_q",
    ),
    "a bias": (
        lambda t: t | {first(t, "lora_B").replace("weight", "bias"): torch.zeros(32)},
        r"would be left out: unet\..*lora_B\.bias",
    ),
    "DoRA": (
        lambda t: t | {"unet.x.lora_magnitude_vector": torch.zeros(32)},
        r"would be left out: unet\.x\.lora_magnitude_vector",
    ),
    "a lone alpha": (lambda t: t | {"unet.x.alpha": torch.tensor(1.0)}, "unet.x.alpha"),
    "another encoder": (
        lambda t: t | {f"text_encoder_2.x.lora_{k}.weight": torch.ones(4, 4) for k in "AB"},
        "has weights for text_encoder_2, unet, this model has unet, text_encoder",
    ),
    "NaN": (lambda t: t | {first(t, "lora_B"): torch.full((32, 4), torch.nan)}, "not finite"),
    "another rank": (
        lambda t: t | {first(t, "lora_B"): torch.zeros(32, 5)},
        r"their sizes are \[4, 32\] and \[32, 5\]",
    ),
    "another size": (
        lambda t: t | {first(t, "lora_B"): torch.zeros(33, 4)},
        r"is \[32, 32\], the change \[33, 32\]",
    ),
    "no tensors": (lambda t: {}, "has no tensors of A and B"),
    "LoHa": (lambda t: {"lora_unet_x.hada_w1_a": torch.zeros(4, 4)}, "left out: .*hada_w1_a"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_merged_whole_is_refused(case, folders, tmp_path):
    write_peft_lora(folders("eps"), tmp_path)
    breaks, message = BROKEN[case]
    tensors = breaks(in_diffusers_layout(read_pairs(tmp_path)))
    file = save(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=rf"broken\.safetensors.*{message}") as error:
        load_family("eps", folders("eps"), lora=file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"lora_bias": True, "target_modules": ["to_out.0"]}, r"lora_B\.bias"),
        ({"modules_to_save": ["conv_in"]}, r"conv_in\.bias"),
        ({"bias": "lora_only"}, r"base_layer\.bias"),
    ],
)
def test_options_of_peft_that_add_tensors_are_refused(options, message, folders, tmp_path):
    write_peft_lora(folders("eps"), tmp_path, **options)
    with pytest.raises(ValueError, match=f"would be left out: .*{message}"):
        load_family("eps", folders("eps"), lora=tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is missing: keep the two together"),
        ("[]", r"adapter_config\.json must hold a JSON object"),
        ("{", r"adapter_config\.json is not valid JSON"),
        ('{"r": "x"}', "r must be a number, not 'x'"),
        ('{"r": 9}', "has rank 4, but its configuration says 9"),
        ('{"alpha_pattern": {"(": 3}}', r"alpha_pattern '\(' is no pattern"),
        ('{"lora_alpha": Infinity}', "alpha inf, which is not finite"),
        ('{"peft_type": "LOHA"}', "peft_type must be LORA, not 'LOHA'"),
        ('{"init_lora_weights": "pissa_niter_4"}', "sets init_lora_weights pissa_niter_4"),
    ],
)
def test_a_broken_configuration_of_peft_is_refused(config, message, folders, tmp_path):
    write_peft_lora(folders("eps"), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_family("eps", folders("eps"), lora=tmp_path)


def test_a_critic_of_pixart_whose_loras_diffusers_does_not_read_can_be_merged(folders, tmp_path):
    prior = load_family("pixart-sigma", folders("pixart-sigma"))
    run = train_lora_critic(prior)
    run.experiment.method.save_critic(prior, run.state, tmp_path)
    conditions = prior.condition(WORDS[:3])
    expected = predict_eps(run.state.prior(), conditions)[0]
    merged = load_family("pixart-sigma", folders("pixart-sigma"), lora=tmp_path)
    eps = predict_eps(merged, conditions)[0]
    assert max_difference(eps, expected) < 2e-5 * float(expected.abs().max())
    assert max_difference(eps, predict_eps(prior, conditions)[0]) > 1e-4
    layer, width = "lora_unet_transformer_blocks_0_attn1_to_q", 48
    pair = {"down": torch.zeros(2, width), "up": torch.zeros(width, 2)}
    tensors = {f"{layer}.lora_{name}.weight": value for name, value in pair.items()}
    save_file(tensors, tmp_path / "kohya.safetensors")
    with pytest.raises(ValueError, match="diffusers converts no LoRA for PixArtSigmaPipeline"):
        load_family("pixart-sigma", folders("pixart-sigma"), lora=tmp_path / "kohya.safetensors")
