"""Random damage to model folders, LoRAs and images: read, or refused in one line by name."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_layouts import in_diffusers_layout, in_kohya_layout, read_pairs, write_peft_lora
from PIL import Image
from safetensors.torch import load_file, save_file

from limbeck.diffusion.model_options import Model
from limbeck.priors.loading import load
from limbeck.system.image_files import read_image, read_mask

pytestmark = pytest.mark.filterwarnings("ignore")

JSON_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
)
TENSOR_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([10**9, 2**63, -(2**40), 10**30])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "world", "silu", "DDIMScheduler", "../..", "os", "a" * 300])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
BYTES = st.one_of(
    st.binary(max_size=40),
    st.just(b"[" * 20_000),
    st.just(b"null"),
    st.just(b'"text"'),
    st.just("é".encode("latin-1")),
)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


def read_or_refuse(read, place: Path) -> bool:
    """Whether ``read()`` succeeds; if not, it must raise one line that names the file."""
    try:
        read()
    except ValueError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 900, message
        assert str(place) in message, message
        return False
    return True


def use_model(model: Model) -> None:
    """Everything before the first step: loading, prompts, one call, one image."""
    prior = load(model, "cpu")
    with torch.no_grad():
        xt = torch.zeros(1, *prior.shape)
        prior(xt, torch.tensor([0.5]), prior.condition(["a red mug"]))
        prior.decode(xt)


def check_options(folders, target, file, pick, value, delete):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folders("eps"), target)
    path = target / file
    config = json.loads(path.read_text())
    key = sorted(config)[pick % len(config)]
    if delete:
        del config[key]
    else:
        config[key] = value
    path.write_text(json.dumps(config))
    # a file may state any size, which is then the user's machine's concern: use a small one
    read_or_refuse(lambda: use_model(Model(str(target), resolution=16)), target)


OPTION = {
    "file": st.sampled_from(JSON_FILES),
    "pick": st.integers(0, 200),
    "value": VALUES,
    "delete": st.booleans(),
}


@FEW
@given(**OPTION)
def test_a_folder_with_a_random_option(folders, tmp_path_factory, file, pick, value, delete):
    target = tmp_path_factory.getbasetemp() / "options"
    check_options(folders, target, file, pick, value, delete)


@pytest.mark.slow
@MANY
@given(**OPTION)
def test_a_folder_with_many_random_options(folders, tmp_path_factory, file, pick, value, delete):
    target = tmp_path_factory.getbasetemp() / "options"
    check_options(folders, target, file, pick, value, delete)


def damage(data: bytes, at: float, change: bytes, keep: float) -> bytes:
    """Bytes written over a place, and the end cut off."""
    start = int(at * len(data))
    changed = data[:start] + change + data[start + len(change) :]
    return changed[: max(int(keep * len(data)), 0)]


PLACE = {
    "at": st.floats(0, 1) | st.floats(0, 0.02),
    "change": st.binary(max_size=12),
    "keep": st.just(1.0) | st.floats(0, 1),
}


@FEW
@given(file=st.sampled_from([*JSON_FILES, "tokenizer/tokenizer.json"]), content=BYTES)
def test_a_folder_with_a_file_of_random_bytes(folders, tmp_path_factory, file, content):
    target = tmp_path_factory.getbasetemp() / "bytes"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folders("eps"), target)
    (target / file).write_bytes(content)
    read_or_refuse(lambda: use_model(Model(str(target), resolution=16)), target)


@FEW
@given(part=st.sampled_from(sorted(TENSOR_FILES)), **PLACE)
def test_a_folder_with_damaged_weights(folders, tmp_path_factory, part, at, change, keep):
    target = tmp_path_factory.getbasetemp() / "weights"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folders("eps"), target)
    path = target / part / TENSOR_FILES[part]
    path.write_bytes(damage(path.read_bytes(), at, change, keep))
    read_or_refuse(lambda: use_model(Model(str(target), resolution=16)), target)


@FEW
@given(
    part=st.sampled_from(sorted(TENSOR_FILES)),
    pick=st.integers(0, 1000),
    change=st.sampled_from(["drop", "rename", "shape", "int", "scalar", "empty"]),
)
def test_a_folder_with_other_tensors(folders, tmp_path_factory, part, pick, change):
    """Tensors of integers are numbers too; all other changes must be refused."""
    target = tmp_path_factory.getbasetemp() / "tensors"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folders("eps"), target)
    path = target / part / TENSOR_FILES[part]
    save_file(change_tensor(load_file(path), pick, change), path, {"format": "pt"})
    read = read_or_refuse(lambda: use_model(Model(str(target))), target)
    assert not read or change == "int"


def change_tensor(tensors, pick, change):
    name = sorted(tensors)[pick % len(tensors)]
    value = tensors.pop(name)
    changed = {
        "drop": {},
        "rename": {name + "x": value},
        "shape": {name: torch.zeros(*value.shape, 2)},
        "int": {name: torch.zeros(value.shape, dtype=torch.int8)},
        "scalar": {name: torch.tensor(1.0)},
        "empty": {name: torch.zeros(0, *value.shape[1:])},
    }
    return tensors | changed[change]


@pytest.fixture(scope="module")
def pairs(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    write_peft_lora(folders("eps"), folder)
    return read_pairs(folder)


LORA_CHANGE = {
    "layout": st.sampled_from([in_diffusers_layout, in_kohya_layout]),
    "pick": st.integers(0, 1000),
    "change": st.sampled_from(["drop", "rename", "shape", "int", "scalar", "empty"]),
}


@FEW
@given(**LORA_CHANGE)
def test_a_lora_with_other_tensors(folders, pairs, tmp_path_factory, layout, pick, change):
    file = tmp_path_factory.getbasetemp() / "changed.safetensors"
    save_file(change_tensor(layout(pairs), pick, change), file)
    read = read_or_refuse(lambda: load(Model(str(folders("eps")), lora=file), "cpu"), file)
    assert not read or change == "int"


@FEW
@given(
    config=st.dictionaries(
        st.sampled_from(
            [
                "r",
                "lora_alpha",
                "alpha_pattern",
                "rank_pattern",
                "bias",
                "peft_type",
                "use_rslora",
                "init_lora_weights",
                "use_dora",
            ]
        ),
        VALUES,
        max_size=3,
    )
)
def test_a_lora_with_a_random_configuration(folders, tmp_path_factory, config):
    target = tmp_path_factory.getbasetemp() / "configured"
    if not target.exists():
        write_peft_lora(folders("eps"), target)
    (target / "adapter_config.json").write_text(json.dumps(config))
    read_or_refuse(lambda: load(Model(str(folders("eps")), lora=target), "cpu"), target)


@FEW
@given(**PLACE)
def test_a_lora_with_damaged_bytes(folders, pairs, tmp_path_factory, at, change, keep):
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_file(in_diffusers_layout(pairs), file)
    file.write_bytes(damage(file.read_bytes(), at, change, keep))
    read_or_refuse(lambda: load(Model(str(folders("eps")), lora=file), "cpu"), file)


# images

FORMATS = {"PNG": "RGB", "JPEG": "RGB", "TIFF": "F", "GIF": "P", "BMP": "RGB", "WEBP": "RGBA"}


def image_bytes(format: str) -> bytes:
    pixels = np.random.default_rng(0).random((24, 24))
    image = Image.fromarray(pixels.astype(np.float32))
    if FORMATS[format] != "F":
        image = Image.fromarray((pixels * 255).astype(np.uint8)).convert(FORMATS[format])
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif.tobytes()} if format in ("PNG", "JPEG", "WEBP") else {}
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def check_image(tmp_path_factory, format, at, change, keep):
    path = tmp_path_factory.getbasetemp() / "damaged image"
    path.write_bytes(damage(image_bytes(format), at, change, keep))
    for read in (read_image, read_mask):

        def read_finite(read=read) -> None:
            image = read(path, (8, 8))
            assert bool((image >= 0).all() and (image <= 1).all())

        read_or_refuse(read_finite, path)


@settings(FEW, max_examples=150)
@given(format=st.sampled_from(sorted(FORMATS)), **PLACE)
def test_an_image_with_damaged_bytes(tmp_path_factory, format, at, change, keep):
    check_image(tmp_path_factory, format, at, change, keep)


@pytest.mark.slow
@settings(MANY, max_examples=5000)
@given(format=st.sampled_from(sorted(FORMATS)), **PLACE)
def test_images_with_damaged_bytes(tmp_path_factory, format, at, change, keep):
    check_image(tmp_path_factory, format, at, change, keep)
