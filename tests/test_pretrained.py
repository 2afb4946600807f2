"""Encoders of others: features of transformers' vision encoders, and weights in the layouts of torchvision and timm."""

import json
import pickle

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from sslzoo.encoders import feature_width, features, load_pretrained
from sslzoo.errors import InputError

TRANSFORMER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8
}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}
CONVOLUTION = {"hidden_sizes": [16, 24], "depths": [1, 1]}


def first(out):
    return out.last_hidden_state[:, 0]


def pooled(out):
    return out.pooler_output.flatten(1)


# What each is known for, by its paper or its class in transformers.
ENCODERS = {
    "ResNet": (transformers.ResNetConfig(embedding_size=8, layer_type="basic", **CONVOLUTION), pooled),
    "RegNet": (transformers.RegNetConfig(embedding_size=8, groups_width=8, **CONVOLUTION), pooled),
    "ConvNext": (transformers.ConvNextConfig(num_stages=2, **CONVOLUTION), pooled),
    "ConvNextV2": (transformers.ConvNextV2Config(num_stages=2, **CONVOLUTION), pooled),
    "Swin": (transformers.SwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4), pooled),
    "ViT": (transformers.ViTConfig(**TRANSFORMER), first),
    "DeiT": (transformers.DeiTConfig(**TRANSFORMER), first),
    "Dinov2": (transformers.Dinov2Config(**TRANSFORMER), first),
    "Dinov2WithRegisters": (transformers.Dinov2WithRegistersConfig(**TRANSFORMER), first),
    "DINOv3ViT": (transformers.DINOv3ViTConfig(**TRANSFORMER), first),
    "ViTMSN": (transformers.ViTMSNConfig(**TRANSFORMER), first),
    "Beit": (transformers.BeitConfig(**TRANSFORMER), pooled),
    "Data2VecVision": (transformers.Data2VecVisionConfig(**TRANSFORMER), lambda out: out.last_hidden_state[:, 1:].mean(1)),
    "Data2VecVision, class token": (transformers.Data2VecVisionConfig(use_mean_pooling=False, **TRANSFORMER), first),
    "IJepa": (transformers.IJepaConfig(**TRANSFORMER), lambda out: out.last_hidden_state.mean(1)),
    "CLIPVision": (transformers.CLIPVisionConfig(**TRANSFORMER), pooled),
    "SiglipVision": (transformers.SiglipVisionConfig(**TRANSFORMER), pooled),
}


def pixels(size=32, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def random_model(config, seed=0):
    """Weights that are all away from zero and one another, so that each of them matters."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def stored(config, folder):
    model = random_model(config)
    model.save_pretrained(folder)
    return model


class TestFeatures:
    @pytest.mark.parametrize("name", ENCODERS)
    def test_are_what_the_encoder_is_known_for(self, name, tmp_path):
        config, expected = ENCODERS[name]
        model = stored(config, tmp_path)
        encoder = load_pretrained(tmp_path)
        with torch.no_grad():
            rows = features(encoder, pixels())
            torch.testing.assert_close(rows, expected(model(pixel_values=pixels())), rtol=0, atol=1e-5)
        assert rows.shape == (2, feature_width(encoder))
        assert (rows[0] - rows[1]).abs().max() > 1e-3, "images tell themselves apart"

    def test_of_a_mobilevit_are_as_wide_as_its_neck(self):
        config = transformers.MobileViTConfig(image_size=32, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 40])
        model = random_model(config)
        with torch.no_grad():
            assert features(model, pixels()).shape == (2, 40) == (2, feature_width(model))

    def test_of_dinov2_and_dinov3_are_their_own_pooled_output_too(self):
        for name in ("Dinov2", "Dinov2WithRegisters", "DINOv3ViT"):
            model = random_model(ENCODERS[name][0])
            with torch.no_grad():
                torch.testing.assert_close(features(model, pixels()), model(pixel_values=pixels()).pooler_output)

    @pytest.mark.parametrize("with_decoder", [False, True])
    def test_of_a_masked_autoencoder_see_the_whole_image(self, with_decoder, tmp_path):
        config = transformers.ViTMAEConfig(
            decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16,
            layer_norm_eps=1e-3, **TRANSFORMER,
        )  # fmt: skip
        model = random_model(config)
        if with_decoder:
            whole = transformers.ViTMAEForPreTraining(config)
            whole.vit.load_state_dict(model.state_dict())
            whole.save_pretrained(tmp_path)
        else:
            model.save_pretrained(tmp_path)
        reference = transformers.ViTModel(transformers.ViTConfig(layer_norm_eps=1e-3, **TRANSFORMER), add_pooling_layer=False).eval()
        reference.load_state_dict(model.state_dict())
        encoder = load_pretrained(tmp_path)
        with torch.no_grad():
            rows = features(encoder, pixels())
            torch.testing.assert_close(rows, reference(pixels()).last_hidden_state[:, 0])
            assert torch.equal(rows, features(encoder, pixels())) and feature_width(encoder) == 32
            assert not torch.allclose(rows, first(model(pixel_values=pixels())), atol=1e-3), "the class itself masks"

    @pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
    def test_of_a_model_of_images_and_texts_are_those_of_its_images(self, kind, tmp_path):
        config = getattr(transformers, f"{kind}Config")(
            vision_config=TRANSFORMER, text_config={**TEXT, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        )
        model = stored(config, tmp_path)
        encoder = load_pretrained(tmp_path)
        with torch.no_grad():
            rows = features(encoder, pixels())
            torch.testing.assert_close(rows, model.vision_model(pixel_values=pixels()).pooler_output)
        assert rows.shape == (2, 32) == (2, feature_width(encoder))


class TestStored:
    def test_text_encoder_is_refused(self, tmp_path):
        stored(transformers.BertConfig(**TEXT), tmp_path)
        with pytest.raises(InputError, match="'bert': an encoder of images is needed"):
            load_pretrained(tmp_path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_are_named(self, value, tmp_path):
        stored(ENCODERS["ViT"][0], tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        state["layernorm.bias"][3] = value
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="not finite.*'layernorm.bias'"):
            load_pretrained(tmp_path)

    @pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt"])
    def test_pickled_weights_are_refused_and_not_run(self, file, tmp_path):
        ENCODERS["ViT"][0].save_pretrained(tmp_path)
        (tmp_path / file).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
        with pytest.raises(InputError, match="cannot load the encoder") as caught:
            load_pretrained(tmp_path)
        assert str(caught.value).isprintable() and not (tmp_path / "canary").exists()

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
    def test_file_cut_short_is_refused(self, share, tmp_path):
        stored(ENCODERS["ViT"][0], tmp_path)
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        with pytest.raises(InputError, match="cannot load the encoder"):
            load_pretrained(tmp_path)

    def test_code_of_the_folder_is_not_run(self, tmp_path):
        canary = tmp_path / "canary"
        stored(ENCODERS["ViT"][0], tmp_path)
        (tmp_path / "mine.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Mine: pass\n")
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="cannot load the encoder"):
            load_pretrained(tmp_path)
        assert not canary.exists()

    def test_missing_tensor_is_named(self, tmp_path):
        stored(ENCODERS["Beit"][0], tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        del state["pooler.layernorm.weight"]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="'pooler.layernorm.weight'"):
            load_pretrained(tmp_path)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")
