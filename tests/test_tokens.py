"""Tokens that are left out or replaced, in every family of transformers."""

import pytest
import torch
from families import FAMILIES, OTHERS, PLAIN_TRANSFORMERS, SIZE, WITH_BIAS, pixels, random_encoder

from sslzoo.encoders import blocks, embedding_parts, features, pool_tokens, token_grid, tokens
from sslzoo.errors import InputError

every_transformer = pytest.mark.parametrize("name", [*PLAIN_TRANSFORMERS, *WITH_BIAS])
every_plain_transformer = pytest.mark.parametrize("name", PLAIN_TRANSFORMERS)
KEEP = torch.tensor([[0, 5, 15], [2, 9, 11]])


@pytest.fixture(scope="module")
def encoders():
    """One of each family in float64, built when it is first needed."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = random_encoder(name).double()
        return built[name]

    return get


def own_tokens(encoder, images):
    """The family's own last hidden state; CLIP's last norm is applied to all tokens, and not to the class token alone."""
    told = images.shape[-1] != SIZE and encoder.config.model_type in ("vit", "vit_msn", "ijepa", "clip_vision_model", "siglip_vision_model")
    last = encoder(images, **({"interpolate_pos_encoding": True} if told else {})).last_hidden_state
    return encoder.post_layernorm(last) if encoder.config.model_type == "clip_vision_model" else last


@every_transformer
@pytest.mark.parametrize("size", [32, 16, 48])
def test_all_of_them_are_the_familys_own(name, size, encoders):
    images = pixels(size, dtype=torch.float64)
    with torch.no_grad():
        found = tokens(encoders(name), images)
        torch.testing.assert_close(found, own_tokens(encoders(name), images), rtol=0, atol=1e-12)
        torch.testing.assert_close(pool_tokens(encoders(name), found), features(encoders(name), images), rtol=0, atol=1e-12)


@every_plain_transformer
def test_kept_ones_are_those_of_a_network_in_which_there_are_no_others(name, encoders, monkeypatch):
    """The family's own forward pass of one image at a time, in which a hook removes rows before the first block, by boolean masks."""
    encoder, images = encoders(name), pixels(dtype=torch.float64)
    special = embedding_parts(encoder).special
    with torch.no_grad():
        found = tokens(encoder, images, keep=KEEP)
        for image, kept in zip(range(2), KEEP.tolist(), strict=True):
            patches = torch.tensor([patch in kept for patch in range(16)])
            rows = torch.cat((torch.ones(special, dtype=torch.bool), patches))
            handles = [blocks(encoder)[0].register_forward_pre_hook(lambda _, given, rows=rows: (given[0][:, rows], *given[1:]))]
            if hasattr(encoder, "rope_embeddings"):
                cut = lambda _, given, angles, patches=patches: tuple(part[patches] for part in angles)  # noqa: E731
                handles.append(encoder.rope_embeddings.register_forward_hook(cut))
            expected = own_tokens(encoder, images[image : image + 1])[0]
            for handle in handles:
                handle.remove()
            torch.testing.assert_close(found[image], expected, rtol=0, atol=1e-12)


@every_plain_transformer
def test_what_is_left_out_does_not_matter_and_what_is_kept_does(name, encoders):
    encoder, images, keep = encoders(name), pixels(dtype=torch.float64), torch.tensor([[0, 1], [0, 1]])
    with torch.no_grad():
        before = tokens(encoder, images, keep=keep)
        images[:, :, 8:], images[:, :, :, 16:] = 9.0, 9.0
        torch.testing.assert_close(tokens(encoder, images, keep=keep), before, rtol=0, atol=0)
        images[:, :, :8, :8] = 9.0
        assert not torch.allclose(tokens(encoder, images, keep=keep), before)
        # Two patches that are alike tell by their positions which is which.
        images[:] = 0.5
        assert not torch.allclose(*tokens(encoder, images, keep=torch.tensor([[3], [12]]))[:, -1:].unbind()) or name == "dinov3_vit"
        pair = tokens(encoder, images, keep=torch.tensor([[3, 4], [3, 12]]))[:, -1]
        assert not torch.allclose(*pair.unbind())


@every_transformer
def test_replaced_ones_are_those_of_an_image_whose_patches_are_the_mask_token(name, encoders):
    """A projection that is given the mask token as its output at the masked places, in the family's own forward pass."""
    encoder, images = encoders(name), pixels(dtype=torch.float64)
    mask_token = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(3)) < 0.6

    def replace(_, given, out):
        for image, row, column in mask.view(2, 4, 4).nonzero().tolist():
            out[image, :, row, column] = mask_token
        return out

    with torch.no_grad():
        handle = embedding_parts(encoder).projection.register_forward_hook(replace)
        expected = own_tokens(encoder, images)
        handle.remove()
        torch.testing.assert_close(tokens(encoder, images, mask=mask, mask_token=mask_token), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(expected, own_tokens(encoder, images))


def test_encoders_whose_tokens_cannot_be_masked_are_refused_in_one_line():
    for name in OTHERS:
        with pytest.raises(InputError, match=f"masks tokens and needs a ViT encoder, not '{FAMILIES[name].model_type}'"):
            token_grid(random_encoder(name))
    for name in WITH_BIAS:
        encoder = random_encoder(name)
        assert token_grid(encoder) == (4, 8)
        with pytest.raises(InputError, match=f"leaves tokens out, and '{encoder.config.model_type}' adds a bias"):
            token_grid(encoder, drops=True)
