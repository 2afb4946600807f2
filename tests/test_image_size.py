"""Encoders fitted to images of another size."""

import pytest
import torch
import transformers

from sslzoo.encoders import build_encoder, encoder_config, features, fit_image_size, to_plain
from sslzoo.errors import InputError

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
WITH_POSITIONS = {
    "vit": transformers.ViTConfig(**SMALL), "vit_msn": transformers.ViTMSNConfig(**SMALL), "ijepa": transformers.IJepaConfig(**SMALL),
    "deit": transformers.DeiTConfig(**SMALL), "dinov2": transformers.Dinov2Config(**SMALL),
    "dinov2_with_registers": transformers.Dinov2WithRegistersConfig(**SMALL), "clip": transformers.CLIPVisionConfig(**SMALL),
    "siglip": transformers.SiglipVisionConfig(**SMALL),
}  # fmt: skip
OF_ANY_SIZE = {
    "dinov3_vit": transformers.DINOv3ViTConfig(**SMALL), "beit": transformers.BeitConfig(use_relative_position_bias=True, **SMALL),
    "beit with absolute positions": transformers.BeitConfig(use_absolute_position_embeddings=True, **SMALL),
    "data2vec": transformers.Data2VecVisionConfig(use_relative_position_bias=True, **SMALL),
    "swin": transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4),
    "convnext": transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]), "res6": encoder_config("res6", 32),
}  # fmt: skip


def random_encoder(config):
    torch.manual_seed(0)
    encoder = build_encoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def pixels(size):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_features_are_those_of_positions_interpolated_on_the_fly(name, size, tmp_path):
    encoder = random_encoder(WITH_POSITIONS[name])
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    fitted = fit_image_size(encoder, size)
    assert fitted.config.image_size == size and encoder.config.image_size == 32 and torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        expected = encoder(pixels(size), **({} if "dinov2" in name else {"interpolate_pos_encoding": True})).last_hidden_state
        assert torch.equal(fitted(pixels(size)).last_hidden_state, expected), "its own size now: nothing is interpolated"
        torch.testing.assert_close(features(fitted, pixels(32)).shape, features(encoder, pixels(32)).shape)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    fresh = build_encoder(fitted.config).state_dict()
    assert {key: value.shape for key, value in fitted.state_dict().items()} == {key: value.shape for key, value in fresh.items()}
    to_plain(fitted).save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(pixels(size)).last_hidden_state, expected)


@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_its_own_size_changes_nothing(name):
    encoder = random_encoder(WITH_POSITIONS[name])
    assert fit_image_size(encoder, 32) is encoder


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_encoders_of_any_size_are_returned_as_they_are(name):
    encoder = random_encoder(OF_ANY_SIZE[name])
    assert fit_image_size(encoder, 48) is encoder
    with torch.no_grad():
        assert features(encoder, pixels(48)).isfinite().all()


def test_mode_precision_and_frozen_parameters_are_kept():
    encoder = random_encoder(WITH_POSITIONS["vit"]).double().train()
    encoder.embeddings.position_embeddings.requires_grad_(False)
    fitted = fit_image_size(encoder, 48)
    assert all(module.training for module in fitted.modules())
    assert {parameter.dtype for parameter in fitted.parameters()} == {torch.float64}
    assert [name for name, parameter in fitted.named_parameters() if not parameter.requires_grad] == ["embeddings.position_embeddings"]


def test_sizes_that_are_no_multiple_name_the_nearest():
    for name in ("vit", "siglip", "dinov3_vit", "beit"):
        encoder = random_encoder({**WITH_POSITIONS, **OF_ANY_SIZE}[name])
        with pytest.raises(InputError, match=r"patches of 8 px: image_size 30 is no multiple of it \(the nearest: 24 and 32\)"):
            fit_image_size(encoder, 30)
    for size in (3, 0):
        with pytest.raises(InputError, match=rf"image_size {size} is no multiple of it \(the nearest: 8\)"):
            fit_image_size(encoder, size)


def test_images_that_are_not_square_are_refused():
    encoder = transformers.ViTModel(transformers.ViTConfig(**{**SMALL, "image_size": [32, 16]}))
    with pytest.raises(InputError, match="image_size of 32x16 px: squares are needed"):
        fit_image_size(encoder, 48)
    same = random_encoder(transformers.ViTConfig(**{**SMALL, "image_size": [32, 32]}))
    assert fit_image_size(same, 48).config.image_size == 48
