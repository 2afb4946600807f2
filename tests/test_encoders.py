"""Encoders: what they are, what comes out of them, and their published form."""

import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModel, ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel, ViTMSNConfig, ViTMSNModel

from sslzoo.encoders import (
    ENCODERS,
    build_encoder,
    encoder_config,
    feature_width,
    features,
    load_pretrained,
    model_folder,
    to_plain,
    token_grid,
    tokens,
    without_pooler,
)
from sslzoo.encoders.small_resnet import SmallResNetModel
from sslzoo.errors import InputError


def vit(image_size=16, seed=0):
    torch.manual_seed(seed)
    encoder = build_encoder(encoder_config("vit-xs4", image_size)).eval()
    torch.nn.init.normal_(encoder.embeddings.position_embeddings)
    return encoder


def pixels(size=16, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


class TestNames:
    @pytest.mark.parametrize(
        ("name", "image_size", "parameters"),
        [
            ("res18", 224, 11_176_512), ("res18", 32, 11_168_832), ("res50", 224, 23_508_032),
            ("res34", 224, 21_284_672), ("vit-t16", 224, 5_524_416), ("convnext-t", 224, 27_820_128),
            ("dinov2-s14", 518, 22_056_576), ("dinov2-b14", 518, 86_580_480), ("vit-s16", 224, 21_665_664),
            ("vit-s16-h12", 224, 21_665_664),
            ("vit-b16", 224, 85_798_656), ("vit-b32", 224, 87_455_232),
        ],
    )  # fmt: skip
    def test_have_the_parameters_of_the_reference(self, name, image_size, parameters):
        with torch.device("meta"):
            encoder = build_encoder(encoder_config(name, image_size))
        assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters

    @pytest.mark.parametrize("name", ENCODERS)
    def test_are_built_and_give_features_as_wide_as_they_say(self, name):
        for size in (56, 98) if "14" in name else (64, 96):
            with torch.device("meta"):
                encoder = build_encoder(encoder_config(name, size))
                rows = features(encoder, torch.zeros(2, 3, size, size))
            assert rows.shape == (2, feature_width(encoder))
            frozen = [key for key, parameter in encoder.named_parameters() if not parameter.requires_grad]
            assert frozen == (["embeddings.mask_token"] if "dinov2" in name else []), "nothing is there that no gradient would reach"

    def test_small_stem_up_to_64_px(self):
        for size, small, side in ((16, True, 2), (64, True, 8), (65, False, 3), (224, False, 7)):
            with torch.device("meta"):
                encoder = build_encoder(encoder_config("res18", size))
                out = encoder(torch.zeros(1, 3, size, size)).last_hidden_state
            assert isinstance(encoder, SmallResNetModel) is small and out.shape[2:] == (side, side)

    def test_small_stem_has_no_relu_and_keeps_the_size(self):
        torch.manual_seed(0)
        stem = build_encoder(encoder_config("res6", 16)).embedder
        out = stem(pixels())
        assert out.shape == (2, 32, 16, 16) and out.min() < -1
        assert [tuple(value.shape) for value in stem.parameters()] == [(32, 3, 3, 3), (32,), (32,)]

    def test_usual_stem_halves_twice(self):
        config = encoder_config("res50", 224)
        assert type(config) is ResNetConfig and not config.downsample_in_bottleneck
        with torch.device("meta"):
            assert build_encoder(config).embedder(torch.zeros(1, 3, 224, 224)).shape == (1, 64, 56, 56)

    def test_vits_have_one_position_per_patch_and_the_usual_epsilon(self):
        config = encoder_config("vit-s16", 224)
        assert config.layer_norm_eps == 1e-6 and config.hidden_size // config.num_attention_heads == 64
        with torch.device("meta"):
            encoder = build_encoder(config)
        assert encoder.embeddings.position_embeddings.shape == (1, 197, 384) and encoder.pooler is None

    def test_bad_names_and_sizes(self):
        with pytest.raises(InputError, match="did you mean 'res18'"):
            encoder_config("res81", 32)
        with pytest.raises(InputError, match="'vit-s16'.*16 px.*30"):
            encoder_config("vit-s16", 30)


class TestGraph:
    """tests/test_contract.py traces each method around a single layer; what stands in its place is traced here, once for each kind."""

    @pytest.fixture(autouse=True)
    def fresh_compiler(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("name", ["res6", "vit-xs4", "dinov2-xs4", "ijepa-xs4"])
    def test_of_features_and_tokens_has_no_break(self, name):
        torch.manual_seed(0)
        config = encoder_config(name, 16)
        config.num_hidden_layers = 1  # the second is traced like the first
        encoder = build_encoder(config).train()
        keep, mask = torch.tensor([[0, 5], [3, 2]]), torch.arange(72).view(2, 36) % 3 == 0

        def forward(own, larger):
            out = [features(encoder, own), features(encoder, larger)]
            if name != "res6":
                out += [tokens(encoder, own, keep=keep), tokens(encoder, larger, mask=mask, mask_token=torch.ones(64))]
            return out

        compiled = torch.compile(forward, backend="eager", fullgraph=True)(pixels(), pixels(24))
        torch.testing.assert_close(compiled, forward(pixels(), pixels(24)))


class TestFeatures:
    def test_of_a_resnet_are_the_mean_of_the_map(self):
        torch.manual_seed(0)
        encoder = build_encoder(encoder_config("res6", 16)).eval()
        out = encoder(pixels()).last_hidden_state
        torch.testing.assert_close(features(encoder, pixels()), out.sum(dim=(2, 3)) / 64)

    def test_of_a_vit_are_the_class_token_behind_the_last_norm(self):
        encoder = vit()
        assert torch.equal(features(encoder, pixels()), encoder(pixels()).last_hidden_state[:, 0])
        assert torch.allclose(features(encoder, pixels()).mean(dim=1), torch.zeros(2), atol=1e-5)

    @pytest.mark.parametrize("size", [8, 24, 32])
    def test_of_a_vit_at_other_sizes_interpolate_positions(self, size):
        encoder = vit()
        expected = encoder(pixels(size), interpolate_pos_encoding=True).last_hidden_state
        assert torch.equal(features(encoder, pixels(size)), expected[:, 0])
        torch.testing.assert_close(tokens(encoder, pixels(size)), expected)

    def test_interpolated_positions_stay_where_they_are_on_the_image(self):
        """Positions that are alike everywhere stay so, the class token keeps its own, and a slope along the columns stays one."""
        encoder = vit()
        positions = encoder.embeddings.position_embeddings.detach()
        positions[0, 0], positions[0, 1:] = 7.0, torch.arange(4.0).repeat(4)[:, None] * torch.tensor([1.0] * 32 + [0.0] * 32) + 1
        seen = []
        encoder.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach()))
        tokens(encoder, pixels(32))
        embeddings = encoder.embeddings
        found = seen[0] - torch.cat([embeddings.cls_token.expand(2, -1, -1), embeddings.patch_embeddings(pixels(32))], dim=1)
        torch.testing.assert_close(found[:, 0], torch.full((2, 64), 7.0), rtol=0, atol=1e-5)
        grid = found[0, 1:].reshape(8, 8, 64)
        torch.testing.assert_close(grid[:, :, 32:], torch.ones(8, 8, 32), rtol=0, atol=1e-5)
        assert (grid[:, 1:, 0] > grid[:, :-1, 0]).all() and torch.allclose(grid[0], grid[7], atol=1e-5)
        assert grid[0, :, 0].sum().item() == pytest.approx(8 * 2.5, abs=1e-3), "and its middle in the middle"

    def test_of_others_models(self):
        torch.manual_seed(0)
        small = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        without_any = ViTMSNModel(ViTMSNConfig(**small)).eval()
        assert torch.equal(features(without_any, pixels()), without_any(pixels()).last_hidden_state[:, 0])
        convolution = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1])).eval()
        assert features(convolution, pixels(64)).shape == (2, 16) == (2, feature_width(convolution))
        plain = ViTModel(ViTConfig(**small)).eval()
        assert torch.equal(features(plain, pixels()), plain(pixels()).last_hidden_state[:, 0]), "not its random pooling layer"


class TestTokens:
    def test_of_everything_are_transformers_own(self):
        encoder = vit()
        torch.testing.assert_close(tokens(encoder, pixels()), encoder(pixels()).last_hidden_state)

    def test_kept_ones_alone_go_through_the_encoder_with_their_own_positions(self):
        encoder = vit()
        keep = torch.tensor([[0, 5, 15], [14, 2, 3]])
        embedded = encoder.embeddings(pixels())
        for image in range(2):
            hidden = torch.stack([embedded[image, 0], *(embedded[image, 1 + patch] for patch in keep[image].tolist())])[None]
            for layer in encoder.layers:
                hidden = layer(hidden)
            torch.testing.assert_close(tokens(encoder, pixels(), keep=keep)[image], encoder.layernorm(hidden)[0])

    def test_what_is_dropped_does_not_matter(self):
        encoder, images = vit(), pixels()
        keep = torch.tensor([[0], [0]])
        before = tokens(encoder, images, keep=keep)
        images[:, :, 4:] = 9.0
        images[:, :, :, 4:] = 9.0
        assert torch.equal(tokens(encoder, images, keep=keep), before)
        images[:, :, :4, :4] = 9.0
        assert not torch.equal(tokens(encoder, images, keep=keep), before)

    def test_masked_ones_are_transformers_own(self):
        torch.manual_seed(0)
        theirs = ViTModel(encoder_config("vit-xs4", 16), use_mask_token=True, add_pooling_layer=False).eval()
        torch.nn.init.normal_(theirs.embeddings.mask_token)
        mask = torch.zeros(2, 16, dtype=torch.bool)
        mask[0, [1, 7]], mask[1, 15] = True, True
        expected = theirs(pixels(), bool_masked_pos=mask).last_hidden_state
        found = tokens(theirs, pixels(), mask=mask, mask_token=theirs.embeddings.mask_token.flatten())
        torch.testing.assert_close(found, expected)
        assert (found - tokens(theirs, pixels())).abs().max() > 0.01

    def test_grid(self):
        assert token_grid(vit()) == (4, 4) and token_grid(vit(32)) == (8, 4)
        with pytest.raises(InputError, match="needs a ViT encoder, not 'sslzoo_resnet'"):
            token_grid(build_encoder(encoder_config("res6", 16)))


class TestPlain:
    @pytest.mark.parametrize(("name", "size"), [("vit-xs4", 16), ("res6", 16), ("res6", 96)])
    def test_is_an_apart_copy_in_evaluation_mode_whose_pooled_output_is_the_feature(self, name, size):
        torch.manual_seed(0)
        encoder = build_encoder(encoder_config(name, size)).train()
        encoder(pixels(size))
        plain = to_plain(encoder)
        assert encoder.training and not any(module.training for module in plain.modules())
        with torch.no_grad():
            assert torch.equal(plain(pixels(size)).pooler_output.flatten(1), features(encoder.eval(), pixels(size)))
        back = without_pooler(plain)
        assert back.keys() == encoder.state_dict().keys()
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, back[key]) and value.data_ptr() != back[key].data_ptr(), key

    def test_comes_back_from_a_folder(self, tmp_path):
        encoder = vit()
        to_plain(encoder).save_pretrained(tmp_path)
        loaded = load_pretrained(model_folder(tmp_path))
        assert not loaded.training and all(torch.equal(value, encoder.state_dict()[key]) for key, value in without_pooler(loaded).items())
        assert isinstance(AutoModel.from_pretrained(tmp_path), ViTModel)

    def test_half_precision_files_are_read_as_float32(self, tmp_path):
        to_plain(vit()).to(torch.bfloat16).save_pretrained(tmp_path)
        assert {value.dtype for value in load_pretrained(tmp_path).parameters()} == {torch.float32}

    def test_of_others_without_a_pooling_layer_loads(self, tmp_path):
        encoder = vit()
        encoder.save_pretrained(tmp_path)
        assert torch.equal(features(load_pretrained(tmp_path), pixels()), features(encoder, pixels()))

    def test_with_weights_missing_is_refused(self, tmp_path):
        torch.manual_seed(0)
        encoder = ResNetModel(encoder_config("res6", 96))
        state = {key: value for key, value in encoder.state_dict().items() if "embedder" not in key}
        encoder.save_pretrained(tmp_path, state_dict=state)
        with pytest.raises(InputError, match="embedder"):
            load_pretrained(tmp_path)


class TestFolder:
    def test_a_name_that_is_nearly_right_is_told(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs" / "simclr-res6-digits").mkdir(parents=True)
        (tmp_path / "runs" / "simclr-res6-digits" / "config.json").touch()
        for name in ("./runs/simclr-res6-digit", "runs/simclr-res6-digit", "simclr-res6-digit"):
            with pytest.raises(InputError, match="did you mean 'runs/simclr-res6-digits'"):
                model_folder(name)

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (GatedRepoError, "the model 'a/b' is gated: ask for access on https://huggingface.co/a/b, then `hf auth login`"),
            (RepositoryNotFoundError, "no model 'a/b', .* not a data set.* private.*`hf auth login`"),
            (RevisionNotFoundError, "'a/b' has no revision 'v2'"),
            (OfflineModeIsEnabled, "neither a folder here nor in the cache.*HF_HUB_OFFLINE"),
            (LocalEntryNotFoundError, "neither a folder here nor in the cache.*is there a network"),
            (PermissionError, "cannot get the model 'a/b' from the Hub: no"),
            (TimeoutError, "cannot get the model 'a/b' from the Hub: no"),
        ],
    )
    def test_what_the_hub_refuses_says_what_to_do(self, error, message, monkeypatch):
        def refused(*_, **__):
            raise error.__new__(error, "no") if issubclass(error, OSError) else error("no")

        monkeypatch.setattr("sslzoo.encoders.folder.snapshot_download", refused)
        with pytest.raises(InputError, match=message) as caught:
            model_folder("a/b", revision="v2")
        assert str(caught.value).isprintable()

    def test_names_that_are_neither_folder_nor_repository(self, tmp_path):
        for name in (tmp_path / "none", "./none", "~/none-of-this-name", "a/b/c", "no spaces", "someone/offline"):
            with pytest.raises(InputError) as caught:
                model_folder(name)
            assert str(name) in str(caught.value) and str(caught.value).isprintable()


def test_small_resnet_loads_with_the_code_that_travels_with_it_where_there_is_no_sslzoo(tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder(encoder_config("res6", 16)).train()
    encoder(pixels())  # statistics that are not the usual ones
    to_plain(encoder).save_pretrained(tmp_path / "model")
    program = f"""
import sys
sys.modules["sslzoo"] = None
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
assert AutoConfig.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True).model_type == "sslzoo_resnet"
classifier = AutoModelForImageClassification.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True, num_labels=3)
encoder = AutoModel.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    torch.save(encoder(images).pooler_output.flatten(1), {str(tmp_path / "features.pt")!r})
    assert classifier(images).logits.shape == (2, 3)
assert type(encoder).__module__.startswith("transformers_modules") and "sslzoo.encoders" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"(\S+) +\| +(?:MISSING|UNEXPECTED)", done.stderr)) == {"classifier.1.bias", "classifier.1.weight"}
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "features.pt"), features(encoder.eval(), pixels()))
