"""The contract of every method. The folder `sslzoo/methods` is the registry: no method is named here, new files are tested too."""

import ast
import copy
import dataclasses
import functools
import inspect
import json
import logging
import os
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_teacher import give_teacher
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from transformers import AutoConfig, AutoModel
from transformers.core_model_loading import rename_source_key

import sslzoo
from sslzoo import method_class, method_names
from sslzoo.encoders import blocks, encoder_config, features, to_plain
from sslzoo.errors import InputError
from sslzoo.method import Method, Progress
from sslzoo.methods import shipped_names
from sslzoo.optim import OPTIMIZERS, make_optimizer, set_learning_rates
from sslzoo.parts import block_masks
from sslzoo.training.setup import encoder_groups
from sslzoo.views import Renderer

SIZE = 16  # px
BATCH = 4
LATE = 50  # an epoch after warm-ups and frozen epochs
# By the `model_type` of a method's own encoder; the others take a small ResNet.
SMALL_VITS = {"vit": "vit-xs4", "dinov2": "dinov2-xs4", "ijepa": "ijepa-xs4"}

every_method = pytest.mark.parametrize("name", method_names())


def one_of_each_kind():
    """For what is the same code for every method: one of those whose files hold the same encoder and leave the same out. And guests."""
    first = {}
    for name in shipped_names():
        method = method_class(name)
        first.setdefault((method.config_class().encoder.model_type, tuple(method.unpublished)), name)
    return sorted({*first.values(), *method_names()} - ({*shipped_names()} - {*first.values()}))


every_kind = pytest.mark.parametrize("name", one_of_each_kind())


def small(value):
    """A hyper-parameter of the paper, reduced for a fast test."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 256:
        return 64
    return type(value)(map(small, value)) if isinstance(value, list | tuple) else value


def build(name, seed=0, **changes):
    """A new, small method, with a teacher if it needs one."""
    torch.manual_seed(seed)
    config = method_class(name).config_class
    values = {key: small(value) for key, value in config.hyperparameters().items()}
    values["encoder"] = SMALL_VITS.get(config().encoder.model_type, "res6")
    return give_teacher(method_class(name)(config(image_size=SIZE, **{**values, **changes}))).train()


def transformer(name):
    """A transformer of one block that the method takes."""
    config = encoder_config("ijepa-xs4" if method_class(name).config_class().encoder.model_type == "ijepa" else "vit-xs4", SIZE)
    config.num_hidden_layers = 1
    return config


def random_views(name, count=BATCH, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    views = [view for view in method_class(name).views(SIZE).values() for _ in range(view.count)]
    return [torch.randn(count, 3, view.size, view.size, generator=generator).to(dtype) for view in views]


def progress(step=1, epoch=LATE, seed=0, first=0, count=BATCH):
    samples = torch.arange(first, first + count)
    return Progress(step, 100, epoch, seed, samples, functools.partial(crops, samples))


def crops(samples, views=16):
    """The crops of at least as many views as any method has, as `Renderer.crops` returns them."""
    places = [(samples + view) % 5 for view in range(views)]
    return [
        torch.stack([place, (2 * samples + view) % 7, samples % 3 + 10, samples % 4 + 10, samples * 0, (samples + view) % 2], dim=1)
        for view, place in enumerate(places)
    ]


def without_scalars(out):
    return {key: value.detach() for key, value in out.items() if value.ndim}


def optimizer_of(method, kind="sgd", lr=0.05):
    optimizer = make_optimizer(method.parameter_groups(), kind, 1e-4, 0.9, (0.9, 0.999), True)
    set_learning_rates(optimizer, lr, 1.0, LATE)
    return optimizer


def train(method, name, steps=2, after_each=lambda: None):
    optimizer = optimizer_of(method)
    for step in range(steps):
        now = progress(step, first=BATCH * step)
        out = method(random_views(name, seed=step), now)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(without_scalars(out), now)
        after_each()
    return method


def snapshot(tensors):
    return {name: value.detach().clone() for name, value in tensors}


def own_buffers(method):
    """All buffers but the running statistics of batch norms."""
    norms = [name + "." for name, module in method.named_modules() if isinstance(module, BatchNorm)]
    return [(name, value) for name, value in method.named_buffers() if not name.startswith(tuple(norms))]


def published(method):
    """Of the state, what is published."""
    return {key: value for key, value in method.state_dict().items() if not key.startswith(method.unpublished)}


def resumed(loaded, original):
    """The published method with what is not published of the original: the teacher that it learns from, and states of checkpoints."""
    method = give_teacher(copy.deepcopy(loaded))
    kept = {key: value for key, value in original.state_dict().items() if key.startswith(original.unpublished)}
    method.load_state_dict(kept, strict=False)
    return method


def every_tensor(method):
    """All parameters and buffers, also those that are not in the state dict."""
    return dict([*method.named_parameters(), *method.named_buffers()])


def teacher_pairs(method):
    """Frozen weights with the trainable ones that they average: the same name but for the first part of it, the same shape."""
    trainable = {key: value for key, value in method.named_parameters() if value.requires_grad}
    pairs = {}
    for key, value in method.named_parameters():
        if not value.requires_grad:
            ending = key.partition(".")[2]
            for other, weight in trainable.items():
                if ending in (other, other.partition(".")[2]) and weight.shape == value.shape:
                    pairs[key] = (value, weight)
    return pairs


class TestLoss:
    @every_method
    @pytest.mark.parametrize("case", ["random", "two images", "constant images", "identical views"])
    def test_is_one_finite_number(self, name, case):
        count = 2 if case == "two images" else BATCH
        views = random_views(name, count)
        if case == "constant images":
            views = [torch.full_like(view, 0.5) for view in views]
        if case == "identical views":
            views = [views[[other.shape for other in views].index(view.shape)].clone() for view in views]
        loss = build(name)(views, progress(count=count))["loss"]
        assert loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss) and loss.requires_grad

    @every_method
    def test_gives_every_trainable_weight_a_gradient_and_nothing_else(self, name):
        method = build(name)
        views = [view.requires_grad_() for view in random_views(name)]
        method(views, progress())["loss"].backward()
        for key, parameter in method.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{key} has no gradient"
                assert torch.isfinite(parameter.grad).all(), key
                if parameter.ndim > 1:  # biases before a norm or of attention's keys have no effect
                    assert parameter.grad.abs().max() > 0, f"the gradient of {key} is zero"
            else:
                assert parameter.grad is None, f"{key} is frozen but has a gradient"
        assert not any(buffer.requires_grad for buffer in method.buffers())

    @every_method
    def test_is_deterministic(self, name, monkeypatch):
        drawn = []
        draw = Progress.draw
        monkeypatch.setattr(Progress, "draw", lambda self, columns: drawn.append(columns) or draw(self, columns))

        def loss(**where):
            torch.manual_seed(torch.initial_seed() + 1)  # the global random numbers must not matter
            # The crops stay the same: they depend on the image, not on what the loss draws.
            now = dataclasses.replace(progress(**where), crops=progress().crops)
            return build_once(name)(random_views(name), now)["loss"].item()

        first = loss()
        assert loss() == first
        others = [loss(first=7), loss(epoch=LATE + 1), loss(seed=1)]
        assert all((other != first) == bool(drawn) for other in others), "random exactly where it draws from `progress`"

    @every_method
    def test_has_no_access_to_labels(self, name):
        assert list(inspect.signature(method_class(name).loss).parameters) == ["self", "views", "progress"]
        assert [field.name for field in dataclasses.fields(Progress)] == ["step", "steps", "epoch", "seed", "samples", "crops", "words"]

    @every_method
    def test_is_close_in_bf16(self, name):
        exact = build(name)(random_views(name), progress())["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            loss = build(name)(random_views(name), progress())["loss"]
        assert loss.dtype == torch.float32, "sums of what was rounded are not rounded themselves"
        torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
        loss.backward()


def build_once(name):
    """A copy, so that running statistics do not add up from call to call."""
    return copy.deepcopy(_built(name))


@functools.cache
def _built(name):
    return build(name)


class TestState:
    @every_method
    def test_teachers_are_moved_only_by_after_step_and_towards_the_student(self, name):
        method = build(name)
        pairs = teacher_pairs(method)
        frozen = {key: value for key, value in method.named_parameters() if not value.requires_grad}
        before = snapshot(frozen.items())
        assert all(torch.equal(teacher, student) for teacher, student in pairs.values()), "a teacher starts as its student"
        optimizer = optimizer_of(method)
        out = method(random_views(name), progress())
        out["loss"].backward()
        optimizer.step()
        assert all(torch.equal(value, before[key]) for key, value in frozen.items())
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    parameter.add_(1.0)
            method.after_step(without_scalars(out), progress(step=0))
        for key, value in frozen.items():
            if key in pairs:
                student = pairs[key][1]
                assert ((student - value).abs() < (student - before[key]).abs()).all(), f"{key} does not move towards its student"
                assert ((value - before[key]).abs() < (student - before[key]).abs()).all(), f"{key} runs ahead"
            else:
                assert torch.equal(value, before[key]), f"{key} is fixed"

    @every_method
    def test_what_is_neither_trained_nor_a_teachers_is_frozen_by_design(self, name):
        """A weight that should learn and does not, such as a gain made without `requires_grad`, looks like any constant."""
        method = build(name)
        pairs = teacher_pairs(method)
        constants = [key for key, value in method.named_parameters() if not value.requires_grad and key not in pairs]
        expected = [key for key, _ in method.named_parameters() if any(part in key for part in method.frozen)]
        assert constants == expected, "named in the method's `frozen`, and nothing else"
        assert all(any(part in key for key in constants) for part in method.frozen)

    @every_method
    def test_buffers_change_within_two_steps(self, name):
        method = build(name)
        before = snapshot(own_buffers(method))
        train(method, name)
        for key, value in own_buffers(method):
            assert torch.isfinite(value.float()).all() and not torch.equal(value, before[key]), f"{key} stays as it was"

    @every_method
    def test_after_step_leaves_trainable_weights_alone(self, name):
        method = build(name)
        out = method(random_views(name), progress())
        out["loss"].backward()
        trainable = {key: value for key, value in method.named_parameters() if value.requires_grad}
        before = snapshot(trainable.items())
        gradients = snapshot((key, value.grad) for key, value in trainable.items())
        with torch.no_grad():
            method.after_step(without_scalars(out), progress())
        for key, value in trainable.items():
            assert torch.equal(value, before[key]) and torch.equal(value.grad, gradients[key]), key

    @every_method
    def test_parameter_groups_hold_each_trainable_weight_once(self, name):
        """Those of the method, and those that training makes of them, where encoder and heads have settings of their own."""
        method = build(name)
        recipe = SimpleNamespace(
            init_from="base", encoder_lr_factor=0.5, layer_decay=1, patch_lr_factor=1, encoder_frozen_epochs=1, clip="network"
        )  # fmt: skip
        for groups in (method.parameter_groups(), encoder_groups(method, recipe)):
            grouped = [id(parameter) for group in groups for parameter in group.parameters]
            assert sorted(grouped) == sorted(id(parameter) for parameter in method.parameters() if parameter.requires_grad)

    @every_method
    @pytest.mark.usefixtures("masks_of_one_block")
    def test_a_whole_step_reads_nothing_back_from_the_device(self, name):
        """`meta` tensors have no values, so whatever asks for one fails."""
        method = build_shallow(name).to("meta")
        pixels = torch.zeros(BATCH, 3, 20, 24, dtype=torch.uint8, device="meta")
        sizes, samples = torch.zeros(BATCH, 2, dtype=torch.int64, device="meta"), torch.zeros(BATCH, dtype=torch.int64, device="meta")
        renderer = Renderer(list(method.views(SIZE).values()), 0)
        views = renderer(pixels, sizes, samples, LATE)
        assert [view.shape for view in views] == [view.shape for view in random_views(name)]
        now = Progress(1, 100, LATE, 0, samples, functools.partial(renderer.crops, sizes, samples, renderer.words(LATE)))
        out = method(views, now)
        out["loss"].backward()
        optimizer_of(method).step()
        method.zero_grad()
        with torch.no_grad():
            method.after_step(without_scalars(out), now)
        assert out["loss"].device.type == "meta"

    @every_kind
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_no_optimizer_reads_anything_back_from_the_device(self, name, kind):
        method = build_shallow(name).to("meta")
        for parameter in method.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer_of(method, kind).step()


@pytest.fixture
def masks_of_one_block(monkeypatch):
    """Masks of blocks are drawn in one round of a hundred tries and not in ten of ten, which takes as many random numbers.

    Each round is traced like the first, as tests/test_block_masks.py shows, and most of the operations of iBOT's graph are theirs.
    """
    monkeypatch.setattr(block_masks, "_BLOCKS", 1)
    monkeypatch.setattr(block_masks, "_TRIES", 100)


def build_shallow(name, **changes):
    """With one block of a ViT: the second is traced like the first, and tracing takes seconds."""
    if encoder := SMALL_VITS.get(method_class(name).config_class().encoder.model_type):
        changes["encoder"] = encoder_config(encoder, SIZE)
        changes["encoder"].num_hidden_layers = 1
    return build(name, **changes)


class Layer(nn.Module):
    """Stands for all blocks of a transformer, or all stages of a ResNet: what the compiler makes of those, tests/test_encoders.py shows."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, *_, **__):
        return self.layer(hidden)


def build_thin(name, **changes):
    """With one layer in the place of all that an encoder, decoder or predictor repeats, which takes most of the time to trace."""
    depths = {key: 1 for key in method_class(name).config_class.hyperparameters() if key.endswith("_depth")}
    method = build(name, **depths, **changes)
    for encoder in method.encoders():
        convolution = encoder.config.model_type == "sslzoo_resnet"
        layers = encoder.encoder.stages if convolution else blocks(encoder)
        is_trained = any(parameter.requires_grad for parameter in layers.parameters())
        layer = nn.Conv2d(32, 64, 3, 2, padding=1) if convolution else nn.Linear(64, 64)
        del layers[1:]
        layers[0] = Layer(layer).requires_grad_(is_trained)
    return method


class TestGraph:
    @every_method
    @pytest.mark.usefixtures("masks_of_one_block")
    def test_loss_and_after_step_are_one_graph_each_that_is_soon_kept(self, name):
        """What breaks a graph raises here. SMoG alternates between two graphs.

        The compiler is told which numbers change, which it would learn by compiling once more, as the next test shows.
        """
        method, sizes = build_thin(name), torch.full((BATCH, 2), 20)
        renderer = Renderer(list(method.views(SIZE).values()), 0)
        torch._dynamo.reset()
        counters = CompileCounter(), CompileCounter()
        loss, after_step = (
            torch.compile(function, backend=counter, fullgraph=True)
            for function, counter in zip((method, method.after_step), counters, strict=True)
        )
        graphs = []
        for step in range(4):
            samples, epoch = torch.arange(BATCH) + step, LATE + step // 2
            crops = functools.partial(renderer.crops, sizes, samples, renderer.words(epoch))
            now = Progress(step, 100, epoch, 0, samples, crops)
            eager = None if step else copy.deepcopy(method)(random_views(name), now)["loss"]
            with torch.compiler.config.patch(dynamic_sources="L['progress'].step,L['progress'].epoch"):
                out = loss(random_views(name, seed=step or 1), now)
                if eager is not None:
                    torch.testing.assert_close(out["loss"], eager)
                with torch.no_grad():
                    after_step(without_scalars(out), now)
            graphs.append([counter.frame_count for counter in counters])
        torch._dynamo.reset()
        assert graphs[0][0] == 1 and graphs[0][1] <= 1
        assert max(graphs[-1]) <= 2 and graphs[1] == graphs[3]

    def test_numbers_that_change_are_compiled_for_once_more(self):
        torch._dynamo.reset()
        counter, samples = CompileCounter(), torch.arange(BATCH)
        fractions = torch.compile(lambda progress: samples * progress.fraction + progress.epoch, backend=counter, fullgraph=True)
        for step in range(4):
            now = Progress(step, 100, LATE + step, 0, samples)
            torch.testing.assert_close(fractions(now), samples * (step / 99) + LATE + step)
        torch._dynamo.reset()
        assert counter.frame_count == 2

    def test_views_apart_are_one_graph_too(self):
        method, samples, views = build_thin("msn", joint_views=False), torch.arange(BATCH), random_views("msn")
        assert method.varied_views == ("focal",) and len(views) == 12
        torch._dynamo.reset()
        torch.compile(method.loss, backend="eager", fullgraph=True)(views[:4], Progress(0, 100, LATE, 0, samples))
        torch._dynamo.reset()


class TestFile:
    @every_method
    def test_first_line_describes_the_method_in_one_sentence(self, name):
        text = Path(inspect.getfile(method_class(name))).read_text()
        sentence = ast.get_docstring(ast.parse(text))
        assert text.splitlines()[0] == f'"""{sentence}"""' and sentence.endswith(".") and ": " in sentence

    @every_method
    def test_names_its_paper_and_is_exported_by_its_class_names(self, name):
        method = method_class(name)
        paper = method.paper
        assert paper.title and paper.authors and 2014 <= paper.year <= 2100
        assert (paper.arxiv is None) != (paper.doi is None)
        assert paper.doi or all(part.isdigit() for part in paper.arxiv.split("."))
        assert paper.url.startswith("https://") and paper.url.endswith(paper.arxiv or paper.doi)
        assert method.config_class.model_type == f"sslzoo-{name}"
        if name in shipped_names():
            assert getattr(sslzoo, method.__name__) is method and getattr(sslzoo, method.config_class.__name__) is method.config_class
        assert sslzoo.method_name(method) == name


@functools.cache
def trained(name):
    """After two steps every state differs from its start."""
    return train(build(name), name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a trained method, written once; do not change it."""

    @functools.cache
    def folder(name):
        path = tmp_path_factory.mktemp(name) / "run"
        trained(name).save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="module")
def loaded(saved):
    """The method in that folder, loaded once; do not change it."""
    return functools.cache(lambda name: method_class(name).from_pretrained(saved(name)))


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy to change."""
    return lambda name: Path(shutil.copytree(saved(name), tmp_path / "run"))


def refused(action, *named):
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert all(str(part) in message for part in named), message
    return message


class TestSaved:
    @every_method
    def test_loads_with_every_tensor_unchanged(self, name, loaded):
        method, loaded = trained(name), loaded(name)
        assert every_tensor(method).keys() == method.state_dict().keys(), "buffers are persistent"
        start, state, back = build(name).state_dict(), published(method), every_tensor(loaded)
        assert sorted(state) == sorted(back)
        for key, value in state.items():
            assert value.dtype == back[key].dtype and torch.equal(value, back[key]), key
        weights = [key for key, value in method.named_parameters() if value.requires_grad]
        assert not any(torch.equal(start[key], back[key]) for key in weights), "what is compared was trained"
        assert {key: value.requires_grad for key, value in loaded.named_parameters()} == {
            key: value.requires_grad for key, value in method.named_parameters()
        }
        assert all(module.training for module in loaded.modules())
        assert {key: getattr(loaded.config, key) for key in loaded.config.hyperparameters()} == {
            key: getattr(method.config, key) for key in method.config.hyperparameters()
        }
        assert loaded.config.image_size == SIZE

    @every_method
    def test_trains_on_as_if_never_saved(self, name, loaded):
        found = train(resumed(loaded(name), trained(name)), name).state_dict()
        gone_on = train(copy.deepcopy(trained(name)), name)
        assert all(torch.equal(value, found[key]) for key, value in gone_on.state_dict().items())

    @every_method
    def test_configuration_is_restored_with_its_encoder(self, name, saved):
        config, method = method_class(name).config_class.from_pretrained(saved(name)), trained(name)
        assert all(getattr(config, key) == getattr(method.config, key) for key in config.hyperparameters())
        with torch.device("meta"):
            built = method_class(name)(config).state_dict()
        assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in published(method).items()}
        other = next(other for other in method_names() if other != name)
        with pytest.raises(InputError, match=f"holds 'sslzoo-{name}', not 'sslzoo-{other}'"):
            method_class(other).config_class.from_pretrained(saved(name))

    def test_files_respect_the_umask_and_are_replaced_all_or_none(self, saved, tmp_path, monkeypatch):
        method = sslzoo.load(saved(method_names()[0]))
        before = os.umask(0o022)
        try:
            method.save_pretrained(tmp_path)
            assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o644}
            os.umask(0o027)
            method.save_pretrained(tmp_path)
            assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}
        finally:
            os.umask(before)
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

        def full(*_, **__):
            raise SafetensorError("No space left on device")

        monkeypatch.setattr("sslzoo.method_files.save_file", full)
        with torch.no_grad():
            next(method.encoder.parameters()).add_(1)
        with pytest.raises(OSError, match="No space left on device"):
            method.save_pretrained(tmp_path)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files

    @every_method
    def test_saving_again_gives_the_same_files(self, name, saved, loaded, tmp_path):
        loaded(name).save_pretrained(tmp_path)
        for file in saved(name).iterdir():
            if file.name == "config.json":
                assert json.loads(file.read_text()) == json.loads((tmp_path / file.name).read_text())
            else:
                assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name

    @every_method
    def test_load_picks_the_class(self, name, saved):
        assert type(sslzoo.load(str(saved(name)))) is method_class(name)

    @every_method
    def test_loads_as_a_plain_transformers_encoder_without_warnings(self, name, saved, capfd):
        method = copy.deepcopy(trained(name)).eval()
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        logging.getLogger("transformers").addHandler(handler)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                encoder, report = AutoModel.from_pretrained(saved(name), output_loading_info=True)
        finally:
            logging.getLogger("transformers").removeHandler(handler)
        assert not any(report.values()), report
        said = capfd.readouterr()
        # A terminal shows the progress of loading; nothing else may be said.
        assert (said.out, [line for line in said.err.splitlines() if "Loading weights" not in line and line.strip()]) == ("", [])
        ours = [warning for warning in warned if not issubclass(warning.category, DeprecationWarning | FutureWarning)]
        assert not ours and not [record for record in records if record.levelno >= logging.WARNING]
        (view,) = random_views(name)[:1]
        with torch.no_grad():
            expected = features(method.encoder, view)
            assert torch.equal(features(encoder, view), expected)
            out = encoder(view)
            # I-JEPA's class has no pooler: its card says how to pool.
            pooled = out.last_hidden_state.mean(dim=1) if out.pooler_output is None else out.pooler_output.flatten(1)
            assert torch.equal(pooled, expected)

    @every_method
    def test_saving_leaves_the_method_unchanged(self, name, tmp_path):
        method = copy.deepcopy(trained(name))
        before, mode = snapshot(method.state_dict().items()), [module.training for module in method.modules()]
        method.save_pretrained(tmp_path)
        assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
        assert mode == [module.training for module in method.modules()]
        assert not hasattr(method.encoder.config, "sslzoo")

    @every_method
    def test_names_survive_the_renaming_of_keys_by_transformers(self, name):
        """transformers adds or strips the base model's prefix where the other name exists, and so may swap weights silently."""
        for state in (build(name).state_dict(), build(name, joint_views=False).state_dict()):
            assert all(rename_source_key(key, [], [], method_class(name).base_model_prefix, state)[0] == key for key in state)
        assert method_class(name).base_model_prefix


class TestPreTrainedModel:
    """What transformers tests of all of its models (tests/test_modeling_common.py there), in so far as a method has it."""

    @every_method
    def test_auto_classes_know_it(self, name, saved):
        method, config_class = build(name), method_class(name).config_class
        assert type(AutoConfig.for_model(f"sslzoo-{name}", image_size=SIZE, encoder="res6")) is config_class
        made = AutoModel.from_config(method.config)
        assert type(made) is type(method) and made.config_class is config_class
        shapes = [{key: value.shape for key, value in published(one).items()} for one in (made, method)]
        assert shapes[0] == shapes[1]
        plain = AutoConfig.from_pretrained(saved(name))
        assert plain.model_type == method.config.encoder.model_type, "what is published is an encoder"

    @every_method
    def test_configuration_round_trips(self, name, saved, loaded, tmp_path):
        config = trained(name).config
        config.save_pretrained(tmp_path)
        own = config.to_dict()
        for again in (type(config).from_pretrained(tmp_path), type(config).from_pretrained(saved(name))):
            assert own == {**again.to_dict(), "_name_or_path": own["_name_or_path"]}
            assert again.to_diff_dict().keys() == config.to_diff_dict().keys()
        assert json.loads(config.to_json_string())["encoder"]["model_type"] == config.encoder.model_type
        assert type(config)(**json.loads(config.to_json_string())).to_dict() == own
        again = loaded(name)
        assert own == {**again.config.to_dict(), "_name_or_path": own["_name_or_path"]} and again.name_or_path == str(saved(name))

    @every_method
    def test_loads_in_another_precision(self, name, saved):
        half, method = give_teacher(method_class(name).from_pretrained(saved(name), dtype=torch.bfloat16)), trained(name)
        states, state = {key for key, _ in own_buffers(method)}, method.state_dict()
        for key, value in published(half).items():
            own = state[key]
            cast = own.is_floating_point() and key not in states  # which add up in small steps
            assert value.dtype == (torch.bfloat16 if cast else own.dtype) and torch.equal(value, own.to(value.dtype)), key
        loss = half(random_views(name, dtype=torch.bfloat16), progress())["loss"]
        assert half.dtype == torch.bfloat16 and loss.isfinite()

    @every_kind
    def test_loads_from_a_folder_in_another_and_on_a_device(self, name, saved):
        load, state = method_class(name).from_pretrained, trained(name).state_dict()
        exact, report = load(saved(name).parent, subfolder="run", dtype="float64", device_map={"": "cpu"}, output_loading_info=True)
        assert not any(report.values()) and exact.dtype == torch.float64 and exact.device.type == "cpu"
        assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in exact.state_dict().items())
        assert {value.device.type for value in every_tensor(load(saved(name), device_map="meta")).values()} == {"meta"}

    @every_kind
    def test_shards_load_bit_for_bit_and_are_replaced(self, name, tmp_path):
        method = trained(name)
        method.save_pretrained(tmp_path, max_shard_size=15_000)
        for file in WEIGHTS:
            assert not (tmp_path / file).exists() and (tmp_path / f"{file}.index.json").exists()
        state = published(method)
        for loaded in (sslzoo.load(tmp_path), AutoModel.from_pretrained(tmp_path)):
            own = method.encoder.state_dict() if loaded.config.model_type != f"sslzoo-{name}" else state
            found = loaded.state_dict()
            assert all(torch.equal(value, found[key]) for key, value in own.items())
        method.save_pretrained(tmp_path)
        assert {file.name for file in tmp_path.glob("*.safetensors*")} == set(WEIGHTS)
        assert all(torch.equal(value, state[key]) for key, value in sslzoo.load(tmp_path).state_dict().items())

    @every_kind
    def test_weights_beyond_the_methods_own_are_an_error(self, name, damaged):
        folder = damaged(name)
        for file in WEIGHTS:
            weights = load_file(folder / file)
            for changed in (weights | {"left.over": torch.zeros(1)}, weights | {next(iter(weights)): torch.zeros(3, 5, 7)}):
                save_file(changed, folder / file, metadata={"format": "pt"})
                refused(lambda: sslzoo.load(folder), "do not fit", folder)
            save_file(weights, folder / file, metadata={"format": "pt"})

    @every_method
    def test_copies_and_pickles_give_the_same_loss(self, name):
        method, views = build(name), random_views(name)
        state = {key: value.clone() for key, value in every_tensor(method).items()}
        copies = [copy.deepcopy(method), pickle.loads(pickle.dumps(method))]
        loss = method(views, progress())["loss"]
        for other in copies:
            assert all(torch.equal(value, state[key]) for key, value in every_tensor(other).items())
            assert torch.equal(other(views, progress())["loss"], loss) and other.config.to_dict() == method.config.to_dict()

    @every_method
    def test_gradients_are_the_same_with_gradient_checkpointing(self, name, monkeypatch):
        to_float = torch.Tensor.float  # meant for half precision
        monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else to_float(tensor))
        method, views = build(name, encoder=transformer(name)).double(), random_views(name, dtype=torch.float64)
        method(views, progress())  # the caches of the first step
        plain, config = copy.deepcopy(method), method.config.to_dict()
        method.gradient_checkpointing_enable()
        assert method.is_gradient_checkpointing and method.config.to_dict() == config
        sizes = []
        for one in (plain, method):
            saved = {}

            def keep(tensor, saved=saved):
                saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                one(views, progress())["loss"].backward()
            sizes.append(sum(saved.values()))
        assert sizes[1] < 0.8 * sizes[0], "activations are not kept"
        for (key, parameter), other in zip(plain.named_parameters(), method.parameters(), strict=True):
            if parameter.requires_grad:
                torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-10, atol=1e-12, msg=key)
        method.gradient_checkpointing_disable()
        assert not method.is_gradient_checkpointing
        method.activation_checkpointing_enable()  # as transformers calls it since 5.23
        assert method.is_gradient_checkpointing
        method.activation_checkpointing_disable()
        assert not method.is_gradient_checkpointing

    @every_method
    def test_attention_is_chosen_for_every_copy_of_the_encoder(self, name):
        method, views = build(name, encoder=transformer(name)), random_views(name)
        losses = []
        for implementation in ("sdpa", "eager"):
            method.set_attn_implementation(implementation)
            assert {encoder.config._attn_implementation for encoder in method.encoders()} == {implementation}
            losses.append(copy.deepcopy(method)(views, progress())["loss"])
        torch.testing.assert_close(*losses)
        with torch.no_grad():
            maps = method.encoder(pixel_values=views[0], output_attentions=True).attentions
        assert len(maps) == method.encoder.config.num_hidden_layers
        torch.testing.assert_close(maps[0].sum(-1), torch.ones(maps[0].shape[:-1]))

    @every_kind
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_attention_is_chosen_at_loading_and_in_no_file(self, name, implementation, tmp_path):
        method = build(name, encoder=transformer(name))
        method.save_pretrained(tmp_path / "before")
        loaded = type(method).from_pretrained(tmp_path / "before", attn_implementation=implementation)
        assert {encoder.config._attn_implementation for encoder in loaded.encoders()} == {implementation}
        loaded.save_pretrained(tmp_path / "after")
        configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("before", "after")]
        assert configs[0] == configs[1]

    @every_method
    def test_says_what_a_model_says(self, name):
        method, vit = build(name), build(name, encoder=transformer(name))
        assert method.dtype == torch.float32 and method.device == torch.device("cpu") and not method.all_tied_weights_keys
        assert method.num_parameters() == sum(parameter.numel() for parameter in method.parameters())
        assert method.num_parameters(only_trainable=True) == sum(p.numel() for p in method.parameters() if p.requires_grad)
        assert len({value.data_ptr() for value in method.state_dict().values()}) == len(method.state_dict()), "safetensors saves no views"
        assert vit.get_input_embeddings() is vit.encoder.embeddings.patch_embeddings and not method.can_generate()

    def test_what_no_method_can_do_is_refused_with_its_reason(self, saved, tmp_path):
        name = next(name for name in method_names() if method_class(name).config_class().encoder.model_type == "resnet")
        load, method = method_class(name).from_pretrained, build(name)
        refused(lambda: load(saved(name), device_map={"backbone": 0, "projector": "cpu"}), "device_map", "one device")
        refused(lambda: load(saved(name), device_map="sequential"), "device_map", "sequential")
        refused(lambda: load(saved(name), dtype="int8"), "dtype", "int8")
        refused(lambda: load(saved(name), subfolder="other"), "other")
        refused(lambda: load(saved(name), attn_implementation="sdpa"), "no attention")
        refused(lambda: load(saved(name), attn_implementation="kernels-community/x"), "kernels-community/x", "eager")
        refused(method.gradient_checkpointing_enable, "gradient_checkpointing", method.encoder.config.model_type)
        refused(lambda: method.save_pretrained(tmp_path / "new", push_to_hub=True), "sslzoo publish")
        refused(lambda: method.save_pretrained(tmp_path / "new", safe_serialization=False), "safetensors")
        refused(lambda: method.save_pretrained(tmp_path / "new", variant="fp16"), "fp16")
        refused(lambda: method.push_to_hub("ada/mine"), "sslzoo publish")
        for call in (lambda: load(saved(name), trust_remote_code=True), lambda: method.save_pretrained(tmp_path / "new", state_dict={})):
            with pytest.raises(TypeError, match="unexpected keyword argument"):
                call()
        assert not (tmp_path / "new").exists()

    def test_a_method_is_no_encoder(self, damaged):
        name = method_names()[0]
        folder = damaged(name)
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, "model_type": f"sslzoo-{name}"}))
        refused(lambda: sslzoo.load(folder), f"sslzoo-{name}")


WEIGHTS = ("model.safetensors", "ssl_heads.safetensors")


class TestDamaged:
    @every_kind
    @pytest.mark.parametrize("file", ["config.json", *WEIGHTS])
    def test_missing_files_are_named(self, name, file, damaged):
        folder = damaged(name)
        (folder / file).unlink()
        # transformers' error for a folder without weights names both kinds of file.
        refused(lambda: sslzoo.load(folder), folder, file)

    @every_kind
    @pytest.mark.parametrize("file", WEIGHTS)
    @pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
    def test_broken_weights_are_refused(self, name, file, damage, damaged):
        folder = damaged(name)
        content = bytearray((folder / file).read_bytes())
        if damage == "flipped":
            content[2] ^= 0xFF
        (folder / file).write_bytes({"flipped": content, "cut": content[:-1], "empty": b""}[damage])
        refused(lambda: sslzoo.load(folder), folder)

    def test_a_flipped_byte_of_the_header_never_gives_other_weights(self, damaged):
        name = method_names()[0]
        folder = damaged(name)
        expected = method_class(name).from_pretrained(folder).state_dict()
        file = folder / "ssl_heads.safetensors"
        content = file.read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        for place in torch.randperm(header, generator=torch.Generator().manual_seed(0))[:25].tolist():
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            try:
                state = method_class(name).from_pretrained(folder).state_dict()
            except InputError:
                continue
            assert all(torch.equal(value, state[key]) for key, value in expected.items()), place

    @every_kind
    @pytest.mark.parametrize("file", WEIGHTS)
    def test_pickles_are_not_opened(self, name, file, damaged, tmp_path):
        folder = damaged(name)
        canary = tmp_path / "canary"
        bomb = pickle.dumps(_Bomb(canary))
        (folder / file).write_bytes(bomb)
        refused(lambda: sslzoo.load(folder), folder)
        (folder / file).unlink()
        for other in ("pytorch_model.bin", "model.bin", "ssl_heads.bin"):
            (folder / other).write_bytes(bomb)
        refused(lambda: sslzoo.load(folder), folder)
        assert not canary.exists()
        pickle.loads(bomb)
        assert canary.exists(), "the canary lives"

    @every_kind
    def test_code_in_the_folder_is_not_run(self, name, damaged, tmp_path):
        folder = damaged(name)
        canary = tmp_path / "canary"
        for file in {*folder.glob("*.py"), folder / "modeling_foreign.py"}:
            file.write_text(f"open({str(canary)!r}, 'w')\nclass Foreign: pass\n")
        config = json.loads((folder / "config.json").read_text())
        changed = {**config, "auto_map": {"AutoConfig": "modeling_foreign.Foreign", "AutoModel": "modeling_foreign.Foreign"}}
        (folder / "config.json").write_text(json.dumps(changed))
        assert type(sslzoo.load(folder)) is method_class(name), "known architectures need no code from the folder"
        (folder / "config.json").write_text(json.dumps({**changed, "model_type": "foreign"}))
        refused(lambda: sslzoo.load(folder), folder)
        assert not canary.exists()

    @every_kind
    @pytest.mark.parametrize(
        "block", [None, [], {}, {"hidden": 1}, *({"model_type": kind} for kind in (None, 5, "sslzoo-foreign", "resnet"))], ids=str
    )
    def test_foreign_or_missing_block_is_refused(self, name, block, damaged):
        folder = damaged(name)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        del config["sslzoo"]
        file.write_text(json.dumps(config if block is None else {**config, "sslzoo": block}))
        refused(lambda: sslzoo.load(folder))
        refused(lambda: method_class(name).from_pretrained(folder), folder)

    @every_method
    def test_block_with_impossible_values_is_refused(self, name, damaged, loaded, monkeypatch):
        folder, encoder = damaged(name), to_plain(loaded(name).encoder)

        def load_again(*_, **__):
            """What is read before the block's values are looked at, loaded once for all of them."""
            again = copy.deepcopy(encoder)
            again.config.sslzoo = {}
            return again

        monkeypatch.setattr("sslzoo.method_files.load_pretrained", load_again)
        assert type(sslzoo.load(folder)) is method_class(name)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        keys = [key for key in config["sslzoo"] if key != "model_type"]
        assert {"image_size", "joint_views"} <= set(keys)
        for key in keys:
            file.write_text(json.dumps({**config, "sslzoo": {**config["sslzoo"], key: {"not": "this"}}}))
            refused(lambda: sslzoo.load(folder), folder)
        file.write_text(json.dumps({**config, "sslzoo": {**config["sslzoo"], "jiont_views": True}}))
        refused(lambda: sslzoo.load(folder), folder, "jiont_views")

    @every_kind
    def test_invalid_config_is_named(self, name, damaged):
        folder = damaged(name)
        for text in ("", "{", "[]", "\x00", '"text"'):
            (folder / "config.json").write_text(text)
            refused(lambda: sslzoo.load(folder), folder / "config.json")

    @every_kind
    def test_another_methods_files_are_refused_with_a_hint(self, name, saved):
        class Other(method_class(name)):
            config_class = type("OtherConfig", (method_class(name).config_class,), {"model_type": "sslzoo-other", "__module__": __name__})

        refused(lambda: Other.from_pretrained(saved(name)), saved(name), "sslzoo.load", "sslzoo-other")

    @every_kind
    def test_an_encoder_that_does_not_fit_the_configuration_is_named(self, name, damaged):
        folder = damaged(name)
        config = json.loads((folder / "config.json").read_text())
        key = "hidden_sizes" if "hidden_sizes" in config else "hidden_size"
        config[key] = [32, 128] if key == "hidden_sizes" else 32
        (folder / "config.json").write_text(json.dumps(config))
        refused(lambda: sslzoo.load(folder), folder)

    @every_method
    def test_heads_that_do_not_fit_the_configuration_are_named(self, name, damaged):
        folder = damaged(name)
        config = json.loads((folder / "config.json").read_text())
        widths = {key: value for key, value in config["sslzoo"].items() if isinstance(value, int) and value in (64, 256)}
        config["sslzoo"] |= {key: 2 * value for key, value in widths.items()}
        if not widths:  # a method without any: remove a tensor instead
            heads = load_file(folder / WEIGHTS[1])
            save_file({key: heads[key] for key in sorted(heads)[1:]}, folder / WEIGHTS[1])
        (folder / "config.json").write_text(json.dumps(config))
        refused(lambda: sslzoo.load(folder), folder)

    def test_missing_files_folders_and_ids_are_refused(self, tmp_path):
        refused(lambda: sslzoo.load(tmp_path / "nothing"), tmp_path / "nothing")
        refused(lambda: sslzoo.load(tmp_path), tmp_path)
        refused(lambda: sslzoo.load("not a Hub id at all"), "not a Hub id at all")
        refused(lambda: Method.from_pretrained("./nothing"), "./nothing")


class _Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)
