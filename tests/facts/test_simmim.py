"""SimMIM against the paper's steps, one image and one patch after the other, in float64."""

import pytest
import torch
from ramp_images import ramp_images, ramp_pixels

from sslzoo import SimMIM, SimMIMConfig
from sslzoo.errors import InputError
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe
from sslzoo.training import train

SIDE, PATCH, PATCHES, COUNT = 4, 4, 16, 3


def progress(epoch=0, count=COUNT):
    return Progress(0, 10, epoch, 0, torch.arange(count))


def method(**changes):
    torch.manual_seed(0)
    model = SimMIM(SimMIMConfig(encoder="vit-xs4", image_size=16, **changes)).double().train()
    with torch.no_grad():  # so that a wrong bias or norm changes the result
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def pixels(count=COUNT, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked_patches(model, count=COUNT):
    """For each image the patches in its masked squares: all but those squares with the smallest random numbers."""
    unit, ratio = model.config.mask_unit, model.config.mask_ratio
    per_side = SIDE // unit
    masked = []
    for row in progress(count=count).draw(per_side**2).tolist():
        order = sorted(range(per_side**2), key=lambda square, row=row: row[square])
        squares = order[int(per_side**2 * (1 - ratio)) :]
        masked.append([p for p in range(PATCHES) if (p // SIDE // unit) * per_side + p % SIDE // unit in squares])
    return masked


def cut(image, patch):
    """One patch of an image, (3, 4, 4)."""
    row, column = divmod(patch, SIDE)
    return image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]


def plain_loss(model, images, masked):
    """The mean absolute error over the pixels of masked patches; in a patch row by row, the channel last."""
    embeddings = model.backbone.embeddings
    projection, places = embeddings.patch_embeddings.projection, embeddings.position_embeddings[0]
    errors = []
    for image, its_masked in zip(images, masked, strict=True):
        rows = [embeddings.cls_token[0, 0] + places[0]]
        for patch in range(PATCHES):
            seen = projection.weight.flatten(1) @ cut(image, patch).flatten() + projection.bias
            rows.append((model.mask_token if patch in its_masked else seen) + places[1 + patch])
        hidden = torch.stack(rows)[None]
        for layer in model.backbone.layers:
            hidden = layer(hidden)
        hidden = model.backbone.layernorm(hidden)[0]
        for patch in its_masked:
            prediction = model.predict.weight @ hidden[1 + patch] + model.predict.bias
            target = torch.stack([cut(image, patch)[:, row, column] for row in range(PATCH) for column in range(PATCH)]).flatten()
            errors += list((prediction - target).abs())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("changes", [{}, {"mask_unit": 1}, {"mask_unit": 1, "mask_ratio": 0.75}], ids=["paper", "one patch", "more"])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model = method(**changes)
    ours = model([pixels()], progress())["loss"]
    plain = plain_loss(model, pixels(), masked_patches(model))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def changed(images, masked, which):
    """All patches that are masked (or that are not) replaced by noise."""
    images = images.clone()
    for image, its_masked in zip(images, masked, strict=True):
        for patch in range(PATCHES):
            if (patch in its_masked) == which:
                cut(image, patch).normal_(generator=torch.Generator().manual_seed(patch))
    return images


def test_encoder_never_sees_a_masked_patch():
    model = method()
    masked, predictions = masked_patches(model), []
    model.predict.register_forward_hook(lambda module, arguments, output: predictions.append(output))
    for images in (pixels(), changed(pixels(), masked, True), changed(pixels(), masked, False)):
        model([images], progress())
    assert torch.equal(predictions[0], predictions[1]), "masked patches do not matter"
    assert (predictions[0] - predictions[2]).abs().max() > 0.01, "the others do"


def test_loss_ignores_visible_patches():
    model = method()
    torch.nn.init.zeros_(model.predict.weight)  # the prediction then is the same whatever the encoder sees
    masked = masked_patches(model)
    loss = model([pixels()], progress())["loss"]
    assert torch.equal(model([changed(pixels(), masked, False)], progress())["loss"], loss)
    assert model([changed(pixels(), masked, True)], progress())["loss"] != loss


def test_masks_are_whole_squares_and_spare_the_class_token():
    model = method()
    seen = []
    model.backbone.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model([pixels()], progress())
    embeddings = model.backbone.embeddings
    rows = seen[0] - embeddings.position_embeddings
    torch.testing.assert_close(rows[:, 0], embeddings.cls_token[:, 0].expand(COUNT, -1))
    masked = ((rows[:, 1:] - model.mask_token).abs().amax(dim=2) < 1e-12).reshape(COUNT, 2, 2, 2, 2)
    assert (masked.any(dim=4).any(dim=2) == masked.all(dim=4).all(dim=2)).all()
    assert (masked.all(dim=4).all(dim=2).sum(dim=(1, 2)) == 3).all(), "60 % of 4 squares are 3"


def test_masks_differ_between_images_and_epochs():
    model = method(mask_unit=1)
    same = pixels(1)
    losses = {model([same], Progress(0, 10, epoch, 0, torch.tensor([sample])))["loss"].item() for epoch in (0, 1) for sample in (0, 1)}
    assert len(losses) == 4


@pytest.mark.parametrize(("recipe", "patches", "masked"), [(None, 196, 30 * 4), ("imagenette/simmim", 49, 37)])
def test_number_of_masked_patches_of_large_images(recipe, patches, masked, monkeypatch):
    """30 of 49 squares of 32 px as in the paper; 37 of 49 patches as in the reference table."""
    counts = []
    where = torch.where
    monkeypatch.setattr(torch, "where", lambda mask, *values: counts.append(mask.sum(dim=(1, 2)).tolist()) or where(mask, *values))
    config = read_recipe(recipe).method_config() if recipe else SimMIMConfig()
    config.encoder.num_hidden_layers = 0
    model = SimMIM(config)
    noise = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        model([noise], Progress(0, 10, 0, 0, torch.arange(2)))
    assert counts == [[masked, masked]] and model.backbone.embeddings.position_embeddings.shape[1] == 1 + patches


def test_prediction_is_one_linear_layer():
    with torch.device("meta"):
        model = SimMIM(SimMIMConfig(encoder="vit-b32", mask_unit=1))
    rest = {name: value.numel() for name, value in model.named_parameters() if not name.startswith("backbone.")}
    assert rest == {"mask_token": 768, "predict.weight": 768 * 3072, "predict.bias": 3072}
    assert sum(value.numel() for value in model.backbone.parameters()) == 87_455_232


@pytest.mark.parametrize(("changes", "named"), [({"encoder": "res6"}, "ViT"), ({"mask_unit": 3}, "mask_unit")])
def test_masks_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        SimMIM(SimMIMConfig(**{"encoder": "vit-xs4", "image_size": 16, **changes}))


def test_defaults_are_the_papers():
    config = SimMIMConfig()
    assert (config.mask_ratio, config.mask_unit * config.encoder.patch_size) == (0.6, 32)
    (view,) = SimMIM.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (1, 224, (0.67, 1.0), 0.5)
    assert not (view.jitter or view.grayscale or view.blur or view.solarize)


@pytest.mark.slow
def test_training_reconstructs_test_images_better_than_the_training_median(tmp_path):
    """The class token is hardly trained in half a minute, so reconstruction is measured instead of kNN or a linear classifier."""
    changes = {"dataset": ramp_images(), "test_split": None, "epochs": 4, "batch_size": 16, "warmup_epochs": 1, "lr": 0.003}
    train(read_recipe("digits/simmim", changes), tmp_path / "run", cpu=True)
    model = SimMIM.from_pretrained(tmp_path / "run").eval()
    train_pixels, test_pixels = map(ramp_pixels, ("train", "test"))
    with torch.no_grad():
        restored = float(model([test_pixels], progress(count=len(test_pixels)))["loss"])
    # The best prediction that does not depend on the image: the median of the training images, pixel by pixel.
    guessed = float((test_pixels - train_pixels.median(dim=0).values).abs().mean())
    assert restored < 0.6 * guessed
