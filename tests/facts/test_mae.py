"""MAE against the paper's steps, one image and one patch after the other, in float64."""

import pytest
import torch
from ramp_images import ramp_images, ramp_pixels

from sslzoo import MAE, MAEConfig
from sslzoo.errors import InputError
from sslzoo.method import Progress
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.recipe import read_recipe
from sslzoo.training import train

SIDE, PATCH, PATCHES, COUNT = 4, 4, 16, 3


def progress(epoch=0, count=COUNT):
    return Progress(0, 10, epoch, 0, torch.arange(count))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "vit-xs4", "image_size": 16, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, **changes}
    model = MAE(MAEConfig(**values)).double().train()
    with torch.no_grad():  # so that a wrong bias or norm changes the result
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def pixels(count=COUNT, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kept_patches(model, count=COUNT):
    """For each image the quarter of its patches with the smallest random numbers."""
    noise = progress(count=count).draw(PATCHES)
    kept = round(PATCHES * (1 - model.config.mask_ratio))
    return [sorted(sorted(range(PATCHES), key=lambda patch, row=row: row[patch])[:kept]) for row in noise.tolist()]


def cut(image, patch):
    """One patch of an image, (3, 4, 4)."""
    row, column = divmod(patch, SIDE)
    return image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]


def through(layers, norm, rows):
    rows = rows[None]
    for layer in layers:
        rows = layer(rows)
    return norm(rows)[0]


def plain_predictions(model, images, kept):
    """For each image its prediction for every patch, (16, 48)."""
    embeddings, decoder = model.backbone.embeddings, model.decoder
    projection = embeddings.patch_embeddings.projection
    places, decoder_places = embeddings.position_embeddings[0], decoder.positions[0]
    predictions = []
    for image, its_kept in zip(images, kept, strict=True):
        rows = [embeddings.cls_token[0, 0] + places[0]]
        for patch in its_kept:
            rows.append(projection.weight.flatten(1) @ cut(image, patch).flatten() + projection.bias + places[1 + patch])
        encoded = through(model.backbone.layers, model.backbone.layernorm, torch.stack(rows))
        encoded = encoded @ decoder.embed.weight.T + decoder.embed.bias
        rows = [encoded[0] + decoder_places[0]]
        for patch in range(PATCHES):
            row = encoded[1 + its_kept.index(patch)] if patch in its_kept else decoder.mask_token
            rows.append(row + decoder_places[1 + patch])
        decoded = through(decoder.layers, decoder.norm, torch.stack(rows))
        predictions.append(decoded[1:] @ decoder.predict.weight.T + decoder.predict.bias)
    return predictions


def plain_loss(model, images, kept):
    """The mean squared error over the pixels of masked patches; in a patch row by row, the channel last."""
    errors = []
    for image, its_kept, prediction in zip(images, kept, plain_predictions(model, images, kept), strict=True):
        for patch in range(PATCHES):
            if patch not in its_kept:
                its_pixels = cut(image, patch)
                target = torch.stack([its_pixels[:, row, column] for row in range(PATCH) for column in range(PATCH)]).flatten()
                if model.config.normalize_pixels:
                    centred = target - target.sum() / 48
                    target = centred / (centred.square().sum() / 47 + 1e-6).sqrt()
                errors += list((prediction[patch] - target).square())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("changes", [{}, {"normalize_pixels": False}, {"mask_ratio": 0.5}], ids=["paper", "raw pixels", "half"])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model = method(**changes)
    ours = model([pixels()], progress())["loss"]
    plain = plain_loss(model, pixels(), kept_patches(model))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def changed(images, kept, masked):
    """All kept, or all masked, patches replaced by noise."""
    images = images.clone()
    for image, its_kept in zip(images, kept, strict=True):
        for patch in range(PATCHES):
            if (patch not in its_kept) == masked:
                cut(image, patch).normal_(generator=torch.Generator().manual_seed(patch))
    return images


def test_encoder_never_sees_a_masked_patch():
    model = method()
    predictions = []
    model.decoder.register_forward_hook(lambda module, arguments, output: predictions.append(output))
    for images in (pixels(), changed(pixels(), kept_patches(model), masked=True), changed(pixels(), kept_patches(model), masked=False)):
        model([images], progress())
    assert torch.equal(predictions[0], predictions[1]), "masked patches do not matter"
    assert (predictions[0] - predictions[2]).abs().max() > 0.01, "kept ones do"


def test_loss_ignores_visible_patches():
    model = method()
    torch.nn.init.zeros_(model.decoder.predict.weight)  # the prediction then is the same whatever the encoder sees
    loss = model([pixels()], progress())["loss"]
    assert torch.equal(model([changed(pixels(), kept_patches(model), masked=False)], progress())["loss"], loss)
    assert model([changed(pixels(), kept_patches(model), masked=True)], progress())["loss"] != loss


def test_decoder_sees_visible_tokens_in_place_and_the_mask_token_elsewhere():
    model = method()
    seen = []
    model.decoder.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model([pixels()], progress())
    tokens = seen[0] - model.decoder.positions
    for image, its_kept in zip(tokens, kept_patches(model), strict=True):
        others = [patch for patch in range(PATCHES) if patch not in its_kept]
        assert len(others) == 12
        torch.testing.assert_close(image[1:][others], model.decoder.mask_token.expand(12, -1))
        assert ((image[1:][its_kept] - model.decoder.mask_token).abs().amax(dim=1) > 0.01).all()


def test_normalised_targets_ignore_brightness_and_contrast_of_masked_patches():
    model = method()
    torch.nn.init.zeros_(model.decoder.predict.weight)
    images = pixels()
    torch.testing.assert_close(model([3 * images + 5], progress())["loss"], model([images], progress())["loss"], rtol=1e-4, atol=0)
    raw = method(normalize_pixels=False)
    torch.nn.init.zeros_(raw.decoder.predict.weight)
    assert raw([3 * images + 5], progress())["loss"] > 5 * raw([images], progress())["loss"]


def test_masks_differ_between_images_and_epochs():
    model = method()
    kept = kept_patches(model, count=8)
    assert len({tuple(one) for one in kept}) > 4
    same = pixels(1)
    losses = {model([same], Progress(0, 10, epoch, 0, torch.tensor([sample])))["loss"].item() for epoch in (0, 1) for sample in (0, 1)}
    assert len(losses) == 4


@pytest.mark.parametrize(("encoder", "patches", "kept"), [("vit-b16", 196, 49), ("vit-b32", 49, 12)])
def test_three_quarters_of_a_large_image_are_masked(encoder, patches, kept):
    with torch.device("meta"):
        model = MAE(MAEConfig(encoder=encoder, decoder_depth=1))
        seen = []
        model.backbone.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[1]))
        model.decoder.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[1]))
        model([torch.zeros(2, 3, 224, 224)], Progress(0, 10, 0, 0, torch.zeros(2, dtype=torch.int64)))
    assert seen == [1 + kept, 1 + patches]


def test_decoder_has_the_reference_counts():
    with torch.device("meta"):
        model = MAE(MAEConfig())
    decoder = dict(model.decoder.named_parameters())
    apart = {part: sum(value.numel() for name, value in decoder.items() if name.startswith(part + ".")) for part in ("embed", "predict")}
    assert apart == {"embed": 393_728, "predict": 393_984}
    assert sum(value.numel() for value in decoder.values()) == 25_321_472 + 393_728 + 393_984
    assert sum(value.numel() for value in decoder.values() if value.requires_grad) == 25_220_608 + 393_728 + 393_984
    assert sum(value.numel() for value in model.backbone.parameters()) == 85_798_656


def test_positions_are_sines_and_cosines_and_are_not_trained():
    model = method()
    places = {"encoder": model.backbone.embeddings.position_embeddings, "decoder": model.decoder.positions}
    grouped = {id(parameter) for group in model.parameter_groups() for parameter in group.parameters}
    for name, width in (("encoder", 64), ("decoder", 32)):
        assert places[name].shape == (1, 17, width) and not places[name].requires_grad and id(places[name]) not in grouped
        assert not places[name][0, 0].any(), "the class token has none"
        # Patch 6 is in row 1, column 2; the first frequency of each axis is 1.
        patch, quarter = places[name][0, 7], width // 4
        expected = torch.tensor([2.0, 2.0, 1.0, 1.0]).double()
        expected = torch.stack([expected[0].sin(), expected[1].cos(), expected[2].sin(), expected[3].cos()])
        torch.testing.assert_close(patch[[0, quarter, 2 * quarter, 3 * quarter]], expected, rtol=0, atol=1e-6)
    before = {name: value.clone() for name, value in places.items()}
    optimizer = make_optimizer(model.parameter_groups(), "adamw", 0.1, 0.9, (0.9, 0.95), True)
    set_learning_rates(optimizer, 0.1, 1.0, 0)
    model([pixels()], progress())["loss"].backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in places.items())


def test_weights_are_initialised_as_in_the_paper():
    torch.manual_seed(0)
    model = MAE(MAEConfig(encoder="vit-xs4", image_size=16, decoder_dim=32, decoder_depth=1, decoder_heads=4))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
            assert not module.bias.any() and 0.9 * bound < module.weight.abs().max() <= bound, name
    projection = model.backbone.embeddings.patch_embeddings.projection
    bound = (6 / (48 + 64)) ** 0.5
    assert not projection.bias.any() and 0.9 * bound < projection.weight.abs().max() <= bound
    for token in (model.backbone.embeddings.cls_token, model.decoder.mask_token):
        assert 0.01 < float(token.detach().std()) < 0.03


def test_evaluated_encoder_sees_all_patches():
    model = method().eval()
    with torch.no_grad():
        found = model.encoder(pixels()).last_hidden_state
        again = model.encoder(pixels()).last_hidden_state
    assert found.shape == (COUNT, 17, 64) and torch.equal(found, again)


def test_resnets_are_refused():
    with pytest.raises(InputError, match="ViT"):
        MAE(MAEConfig(encoder="res6", image_size=16))


def test_defaults_are_the_papers():
    config = MAEConfig()
    assert (config.mask_ratio, config.decoder_dim, config.decoder_depth, config.decoder_heads) == (0.75, 512, 8, 16)
    assert config.normalize_pixels is True
    (view,) = MAE.views(224).values()
    assert (view.count, view.size, view.scale, view.interpolation) == (1, 224, (0.2, 1.0), "bicubic")
    assert view.horizontal_flip == 0.5 and not (view.jitter or view.grayscale or view.blur or view.solarize)


@pytest.mark.slow
def test_training_reconstructs_test_images_better_than_the_training_mean(tmp_path):
    """The class token is hardly trained in half a minute, so reconstruction is measured instead of kNN or a linear classifier."""
    changes = {"dataset": ramp_images(), "test_split": None, "epochs": 4, "batch_size": 16, "warmup_epochs": 1}
    train(read_recipe("digits/mae", changes), tmp_path / "run", cpu=True)
    model = MAE.from_pretrained(tmp_path / "run").eval()
    train_pixels, test_pixels = map(ramp_pixels, ("train", "test"))
    with torch.no_grad():
        now = Progress(0, 1, 0, 0, torch.arange(len(test_pixels)))
        restored = float(model([test_pixels], now)["loss"])
    # The best prediction that does not depend on the image: the mean of the training images, pixel by pixel.
    guessed = float((test_pixels - train_pixels.mean(dim=0)).square().mean())
    assert restored < 0.85 * guessed
