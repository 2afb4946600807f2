"""Feature maps, their colours, and what the class token attends to."""

import copy

import pytest
import torch
from families import FAMILIES, random_encoder
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, IJepaConfig, IJepaModel, ViTMAEConfig, ViTMAEModel

from sslzoo.encoders import build_encoder, encoder_config, feature_map, features, tokens
from sslzoo.errors import InputError
from sslzoo.evaluation.feature_maps import class_attention, pca_map

SMALL = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

# Tokens before the patches.
SPECIAL = {
    "vit": 1, "vit_msn": 1, "dinov2": 1, "dinov2_with_registers": 4, "dinov3_vit": 4, "clip": 1, "beit": 1, "beit, shared bias": 1,
    "data2vec": 1, "data2vec, shared bias": 1, "dinov3_convnext": 1,
}  # fmt: skip

AVERAGED = ("ijepa", "data2vec", "data2vec, shared bias", "swin", "swinv2", "resnet")  # whose features are the mean of the places


def pixels(height=16, width=16, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def vit():
    torch.manual_seed(0)
    return lively(build_encoder(encoder_config("vit-xs4", 16)))


def with_registers():
    torch.manual_seed(0)
    return lively(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3, mlp_ratio=1)))


def lively(encoder):
    """With weights so large that tokens tell each other apart."""
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


class TestFeatureMap:
    def test_of_a_vit_is_its_patch_tokens_row_by_row(self):
        for height, width in ((16, 16), (16, 24), (12, 20)):
            found = feature_map(vit(), pixels(height, width))
            assert found.shape == (2, height // 4, width // 4, 64) and not found.requires_grad
            expected = tokens(vit(), pixels(height, width))
            torch.testing.assert_close(found[:, 1, 2], expected[:, 1 + width // 4 + 2])
            torch.testing.assert_close(found[:, -1, -1], expected[:, -1])

    def test_of_a_resnet_is_its_last_map(self):
        encoder = build_encoder(encoder_config("res6", 16)).eval()
        found = feature_map(encoder, pixels(16, 24))
        assert found.shape == (2, 8, 12, 64)
        assert torch.equal(found[1, 2, 5], encoder(pixels(16, 24)).last_hidden_state[1, :, 2, 5])

    def test_leaves_out_register_tokens(self):
        encoder = with_registers()
        last = encoder(pixels(16, 24)).last_hidden_state
        assert last.shape[1] == 1 + 3 + 24 and torch.equal(feature_map(encoder, pixels(16, 24))[:, 0, 0], last[:, 4])

    def test_tokens_that_are_not_the_patches_are_refused(self):
        masked = ViTMAEModel(ViTMAEConfig(**SMALL)).eval()
        for function in (feature_map, class_attention):
            with pytest.raises(InputError, match="'vit_mae'"):
                function(masked, pixels())

    def test_windows_are_a_map_of_square_images_and_no_attention(self):
        swin = random_encoder("swin")
        assert feature_map(swin, pixels(32, 32)).shape == (2, 4, 4, 16)
        with pytest.raises(InputError, match="'swin'"):
            feature_map(swin, pixels(32, 64))
        with pytest.raises(InputError, match="'swin' has no class token"):
            class_attention(swin, pixels(32, 32))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_every_family_is_its_places_after_the_norm_that_is_evaluated(self, family):
        encoder = random_encoder(family)
        with torch.no_grad():
            out = encoder(pixel_values=pixels(32, 32))
            last = out.last_hidden_state
            places = last.flatten(2).mT if last.ndim == 4 else last[:, SPECIAL.get(family, 0) :]
            if family in ("convnext", "convnextv2"):
                places = encoder.layernorm(places)
            elif family == "clip":
                places = encoder.post_layernorm(places)
            elif family == "beit":
                places = encoder.pooler.layernorm(places)
            found = feature_map(encoder, pixels(32, 32))
            assert found.shape[1] == found.shape[2] and found.flatten(1, 2).shape == places.shape
            torch.testing.assert_close(found.flatten(1, 2), places)
            if family == "clip":  # the norm is the one that makes the evaluated token
                torch.testing.assert_close(encoder.post_layernorm(last[:, 0]), features(encoder, pixels(32, 32)))
            elif family in AVERAGED:
                torch.testing.assert_close(places.mean(1), features(encoder, pixels(32, 32)))


def places(coordinates, directions, offset):
    """Maps (1, h, w, width) whose principal components are `directions`, from coordinates (h, w, 3)."""
    return (coordinates @ directions + offset)[None]


class TestPCA:
    def make(self):
        """A 4x4x4 grid of places, farthest apart along the first direction: the components are known."""
        grid = torch.cartesian_prod(*[torch.tensor([-3.0, -1.0, 1.0, 3.0])] * 3) * torch.tensor([5.0, 2.0, 1.0])
        directions = torch.zeros(3, 6)
        directions[0, 4], directions[0, 1], directions[1, 2], directions[2, 0], directions[2, 5] = -0.8, 0.6, 1.0, 0.6, -0.8
        return places(grid.reshape(8, 8, 3), directions, torch.arange(6.0)), grid.reshape(8, 8, 3)

    def test_colours_are_the_known_components_stretched(self):
        maps, grid = self.make()
        colours = pca_map(maps)
        assert colours.shape == (1, 8, 8, 3) and colours.dtype == torch.float32
        # The feature that weighs most goes against the first and third coordinate and with the second.
        expected = grid / grid.amax(dim=(0, 1)) * torch.tensor([-1.0, 1.0, -1.0]) / 2 + 0.5
        torch.testing.assert_close(colours[0], expected, rtol=0, atol=1e-5)

    def test_first_three_of_more_components(self):
        maps, _ = self.make()
        maps = torch.cat([maps, 0.05 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))], dim=-1)
        torch.testing.assert_close(pca_map(maps), pca_map(maps[..., :6]), rtol=0, atol=0.02)

    def test_over_all_images_together_whatever_their_order(self):
        maps = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
        maps[0, ..., 0] += 20
        colours = pca_map(maps)
        assert colours.shape == (3, 2, 4, 3)
        assert torch.equal(colours.amin(dim=(0, 1, 2)), torch.zeros(3)) and torch.equal(colours.amax(dim=(0, 1, 2)), torch.ones(3))
        assert colours[0, ..., 0].min() > colours[1:, ..., 0].max(), "the first image is apart"
        torch.testing.assert_close(pca_map(maps.flip(0)), colours.flip(0))
        torch.testing.assert_close(pca_map(7 * maps + 3), colours)

    @pytest.mark.parametrize("rank", [0, 1, 2])
    def test_components_without_spread_are_grey(self, rank):
        maps, grid = self.make()
        flat = places(grid * (torch.arange(3) < rank), torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), torch.ones(6))
        spread = pca_map(flat).flatten(0, 2)
        assert (spread[:, rank:] == 0.5).all() and (spread[:, :rank].amax(dim=0) == 1).all()

    def test_fewer_places_than_components(self):
        assert pca_map(torch.randn(1, 1, 1, 4)).tolist() == [[[[0.5, 0.5, 0.5]]]]
        assert pca_map(torch.tensor([[[[0.0, 0.0], [3.0, 1.0]]]])).tolist() == [[[[0.0, 0.5, 0.5], [1.0, 0.5, 0.5]]]]


class TestAttention:
    @pytest.mark.parametrize(("build", "registers"), [(vit, 0), (with_registers, 3)])
    def test_is_that_of_the_last_layer_of_an_eager_copy(self, build, registers):
        encoder = build()
        found = class_attention(encoder, pixels(16, 16))
        theirs = copy.deepcopy(encoder)
        theirs.set_attn_implementation("eager")
        with torch.no_grad():
            whole = theirs(pixels(16, 16), output_attentions=True).attentions[-1]
        assert found.shape == (2, encoder.config.num_attention_heads, 4, 4)
        torch.testing.assert_close(found[:, :, 2, 3], whole[:, :, 0, 1 + registers + 2 * 4 + 3])
        rest = whole[:, :, 0, : 1 + registers].sum(dim=-1)
        torch.testing.assert_close(found.sum(dim=(2, 3)), 1 - rest)
        assert (found >= 0).all() and (rest > 0).all() and found.std() > 1e-3

    def test_leaves_the_encoder_as_it_was(self):
        encoder = vit()
        before, state = encoder.config.to_dict(), copy.deepcopy(encoder.state_dict())
        class_attention(encoder, pixels())
        assert encoder.config.to_dict() == before and encoder.config._attn_implementation == "sdpa"
        assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())

    def test_of_other_sizes_than_the_encoders_own(self):
        assert class_attention(vit(), pixels(24, 32)).shape == (2, 4, 6, 8)

    def test_encoders_without_it_are_refused(self):
        with pytest.raises(InputError, match="'sslzoo_resnet' has no attention"):
            class_attention(build_encoder(encoder_config("res6", 16)).eval(), pixels())
        with pytest.raises(InputError, match="'ijepa' has no class token"):
            class_attention(IJepaModel(IJepaConfig(**SMALL)).eval(), pixels())
