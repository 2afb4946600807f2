"""Every method with encoders of every family: it trains a step, is saved and loaded, and plain transformers loads what it publishes.

Two joint-embedding methods and all masked ones take every family; the others take three that differ most: registers and rotary positions,
attention pooling without a class token, and windows.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from families import FAMILIES, OTHERS, PLAIN_TRANSFORMERS, SIZE, TRANSFORMER, WINDOWS, WITH_BIAS, pixels, random_encoder
from test_contract import optimizer_of, progress, small, without_scalars
from tiny_teacher import give_teacher
from transformers import AutoModel

from sslzoo import method_class
from sslzoo.encoders import build_encoder, feature_width, features, load_pretrained, to_plain, without_pooler
from sslzoo.errors import InputError
from sslzoo.evaluation.layer_decay import layer_groups
from sslzoo.methods import shipped_names
from sslzoo.training.setup import encoder_groups

CONVOLUTIONS = ("resnet", "convnext", "convnextv2", "dinov3_convnext")
LEAVE_OUT, REPLACE = ("mae", "msn", "pmsn", "ijepa"), ("simmim", "ibot", "dinov2")
REFUSED = {
    **{(method, family): "needs a ViT encoder, not" for method in (*LEAVE_OUT, *REPLACE) for family in OTHERS},
    **{(method, family): "leaves tokens out, and" for method in LEAVE_OUT for family in WITH_BIAS},
    **{("ijepa", family): "without a class token" for family in PLAIN_TRANSFORMERS if family not in ("ijepa", "siglip")},
}
JOINT = [method for method in shipped_names() if method not in (*LEAVE_OUT, *REPLACE)]
CASES = [
    *((method, family) for method in ("simclr", "dino", *LEAVE_OUT, *REPLACE) for family in FAMILIES if (method, family) not in REFUSED),
    *((method, family) for method in JOINT if method not in ("simclr", "dino") for family in ("dinov3_vit", "siglip", "swin")),
]

SAVED = [*(("simclr", family) for family in FAMILIES), ("msn", "siglip"), ("mae", "clip"), ("mae", "siglip"), ("simmim", "siglip")]


def build(method, family):
    torch.manual_seed(0)
    config = method_class(method).config_class
    values = {key: small(value) for key, value in config.hyperparameters().items()}
    return give_teacher(method_class(method)(config(encoder=FAMILIES[family], image_size=SIZE, **values))).train()


def views_of(method):
    views = [view for view in type(method).views(SIZE).values() for _ in range(view.count)]
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, view.size, view.size, generator=generator) for view in views]


def step(built):
    """One step of the optimiser; the encoder must not draw random numbers of its own."""
    optimizer, state = optimizer_of(built), torch.get_rng_state()
    out = built(views_of(built), progress())
    assert torch.equal(torch.get_rng_state(), state)
    assert out["loss"].isfinite()
    out["loss"].backward()
    assert not [name for name, parameter in built.named_parameters() if parameter.requires_grad is (parameter.grad is None)]
    optimizer.step()
    with torch.no_grad():
        built.after_step(without_scalars(out), progress())


@pytest.mark.parametrize(("method", "family"), CASES)
def test_every_weight_that_requires_a_gradient_gets_one(method, family):
    step(build(method, family))


@pytest.mark.parametrize(("method", "family"), SAVED)
def test_saved_and_loaded_is_the_same_and_plain_transformers_gives_its_features(method, family, tmp_path, caplog):
    built = build(method, family)
    step(built)
    built.save_pretrained(tmp_path)
    loaded, before = type(built).from_pretrained(tmp_path), built.state_dict()
    assert before.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    frozen = [{name for name, parameter in one.named_parameters() if not parameter.requires_grad} for one in (built, loaded)]
    assert frozen[0] == frozen[1]

    plain, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and not caplog.records
    others = [plain, load_pretrained(tmp_path)]
    with torch.no_grad():
        for size in (SIZE, 48, 16):
            expected = features(built.encoder.eval(), pixels(size))
            assert expected.isfinite().all() and expected.shape == (2, feature_width(plain))
            for other in others:  # SigLIP's attention takes another kernel if its weights require no gradient
                torch.testing.assert_close(features(other, pixels(size)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "family"), REFUSED)
def test_encoders_whose_tokens_cannot_be_masked_are_refused_in_one_line(method, family):
    with pytest.raises(InputError, match=REFUSED[method, family]):
        build(method, family)


def test_features_of_a_swin_do_not_depend_on_the_images_before():
    """transformers narrows its windows for good when it sees a small image."""
    encoder = random_encoder("swin")
    with torch.no_grad():
        own = encoder(pixels(SIZE)).pooler_output
        features(encoder, pixels(16))
        torch.testing.assert_close(features(encoder, pixels(SIZE)), own)


@pytest.mark.parametrize("method", ["mae", "simmim"])
def test_a_pooling_that_masked_methods_do_not_train_is_left_out(method, tmp_path):
    """SigLIP's attention pooling would stay random, and its features with it."""
    built, published = build(method, "siglip"), random_encoder("siglip")
    built.init_encoders(published)
    built.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        patches, out = published(pixels()).last_hidden_state, plain(pixels())
        assert out.pooler_output is None and torch.equal(out.last_hidden_state, patches)
        torch.testing.assert_close(features(plain, pixels()), patches.mean(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_decay_is_for_the_weights_of_layers_alone_in_continued_training(family):
    """Not for tokens, positions, probes, scales and norms, whatever a family calls them."""
    built = build("simclr", family)
    recipe = SimpleNamespace(
        init_from="base", encoder_lr_factor=0.1, layer_decay=1, patch_lr_factor=1, encoder_frozen_epochs=0, clip="global"
    )  # fmt: skip
    groups = [encoder_groups(built, recipe)] + ([] if family in OTHERS else [layer_groups(built.encoder, 0.5)])
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    weights = {id(module.weight) for module in built.modules() if isinstance(module, layers)}
    weights |= {id(module.in_proj_weight) for module in built.modules() if isinstance(module, torch.nn.MultiheadAttention)}
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    for found in groups:
        decayed = {id(parameter) for group in found if group.decay for parameter in group.parameters}
        assert not [names[each] for each in decayed - weights] and len(decayed) > 4
    never = {id(parameter) for group in groups[0] if group.never_decay for parameter in group.parameters}
    trained = {id(parameter) for parameter in built.encoder.parameters() if parameter.requires_grad}
    assert not [names[each] for each in trained - weights - never], "the recipe speaks of the heads alone"


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_and_attention_change_nothing_or_are_refused(family):
    """Views of two sizes, as positions are interpolated, and whatever a block is given must be there when it is computed again."""
    plain = build("dino", family)
    checkpointed, losses = copy.deepcopy(plain), []
    if family in ("swin", *CONVOLUTIONS):
        with pytest.raises(InputError, match="gradient_checkpointing needs the blocks of a transformer"):
            checkpointed.gradient_checkpointing_enable()
    else:
        checkpointed.gradient_checkpointing_enable()
        for method in (plain, checkpointed):
            method(views_of(method), progress())["loss"].backward()
        for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            assert (expected.grad is None) == (found.grad is None) and (found.grad is None or torch.equal(found.grad, expected.grad)), name
    for implementation in ("eager", "sdpa"):
        method = build("dino", family)
        if family in CONVOLUTIONS or (family, implementation) == ("swinv2", "sdpa"):
            with pytest.raises(InputError, match="has no attention|'eager' attention alone"):
                method.set_attn_implementation(implementation)
        else:
            method.set_attn_implementation(implementation)
            losses.append(method(views_of(method), progress())["loss"])
    assert all(torch.allclose(loss, losses[0]) for loss in losses)


@pytest.mark.parametrize("family", ["beit", "data2vec, shared bias"])
def test_a_rehearsal_on_meta_tensors_leaves_nothing_behind(family):
    """BEiT caches an index of positions for the whole process; one without values gives features without meaning, and no error."""
    with torch.device("meta"):
        rehearsed = build("simclr", family)
        rehearsed([torch.empty(4, 3, 72, 72)] * 2, progress())
    bias = next(module for module in rehearsed.modules() if hasattr(module, "generate_relative_position_index"))
    assert bias.generate_relative_position_index((9, 9)).device.type == "cpu"


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_image_half_of_a_model_of_images_and_texts_fits_a_new_encoder(kind, tmp_path):
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=TRANSFORMER, text_config={**text, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    half = load_pretrained(tmp_path)
    encoder = build_encoder(half.config).eval()
    encoder.load_state_dict(without_pooler(half))
    with torch.no_grad():
        assert torch.equal(features(encoder, pixels()), features(half, pixels()))


def test_what_is_random_in_an_encoder_of_its_own_is_off_and_so_in_its_configuration():
    for config in (transformers.SwinConfig(**WINDOWS), transformers.DINOv3ViTConfig(**TRANSFORMER)):
        encoder = build_encoder(config)
        assert encoder.training and torch.equal(features(encoder, pixels()), features(encoder, pixels()))
        assert getattr(encoder.config, "drop_path_rate", 0) == 0 and getattr(encoder.config, "pos_embed_rescale", None) is None
    assert transformers.SwinConfig().drop_path_rate == 0.1 and transformers.DINOv3ViTConfig().pos_embed_rescale == 2.0


@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_a_pooling_layer_that_is_not_used_is_published_as_the_identity(kind, tmp_path):
    encoder = build_encoder(getattr(transformers, f"{kind}Config")(pooler_output_size=8, **TRANSFORMER)).eval()
    assert encoder.pooler is None
    to_plain(encoder).save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(pixels()).pooler_output, features(encoder, pixels()))
