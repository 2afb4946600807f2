"""torch.compile: what a recipe says of it, a compiler that fails, and what a run then gives."""

import copy
import functools
import gc

import pytest
import torch
from test_contract import progress
from test_families import build, views_of
from test_training import short_recipe, train, train_until, weights
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from sslzoo.compilation import compiled
from sslzoo.errors import InputError
from sslzoo.recipe import read_recipe
from sslzoo.run import Run
from sslzoo.training import loop

UNFREEZE = gc.unfreeze  # conftest.py takes it away when all tests are collected
FAILED = "torch.compile failed on {}, which goes on without it: no C++ compiler"


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def backend(monkeypatch):
    """Makes torch.compile use a backend."""
    compile = torch.compile
    return lambda backend: monkeypatch.setattr(torch, "compile", functools.partial(compile, backend=backend))


def no_compiler(module, inputs):
    raise RuntimeError("no C++ compiler\nis there")


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "sslzoo.compilation"]


def square(values):
    return values.square().sum()


def test_a_function_is_compiled_once(backend):
    counter = CompileCounter()
    backend(counter)
    function = compiled(square)
    assert [function(torch.full((2,), value)).item() for value in (1.0, 2.0)] == [2.0, 8.0]
    assert counter.frame_count == 1 and function.__name__ == "square"


# The graph of the gradient is compiled in the first call too, or the backward pass would raise.
@pytest.mark.parametrize("failing", [no_compiler, aot_autograd(fw_compiler=lambda module, _: module, bw_compiler=no_compiler)])
def test_a_compiler_that_fails_costs_one_warning(failing, backend, caplog):
    backend(failing)
    function, values = compiled(square), torch.ones(3, requires_grad=True)
    for _ in range(2):
        values.grad = None
        function(values).backward()
        assert values.grad.tolist() == [2.0, 2.0, 2.0]
    assert warnings_of(caplog) == [FAILED.format("square")]


def test_what_is_not_the_compilers_fault_is_raised(backend, caplog):
    backend("eager")

    def refuse(values):
        raise InputError("too few images")

    for _ in range(2):
        with pytest.raises(InputError, match="too few images"):
            compiled(refuse)(torch.ones(3))
    assert not warnings_of(caplog)


@pytest.mark.parametrize("value", ["auto", True, False])
def test_a_recipe_says_auto_true_or_false(value):
    assert read_recipe("digits/simclr", {"compile": value}).flat()["compile"] == value
    assert read_recipe("digits/simclr").compile == "auto"
    with pytest.raises(InputError, match="compile is 1: must be auto or true or false"):
        read_recipe("digits/simclr", {"compile": 1})


def test_a_run_without_a_compiler_ends_like_an_eager_one(backend, tmp_path, monkeypatch, caplog, capsys):
    """It also changes from false to true on the way, and gives garbage collection back as it was."""
    frozen, add = [], loop.Logs.add
    monkeypatch.setattr(loop.Logs, "add", lambda *arguments: frozen.append(gc.get_freeze_count()) or add(*arguments))
    monkeypatch.setattr(gc, "unfreeze", UNFREEZE)
    UNFREEZE()
    before = gc.get_freeze_count()
    eager = train(short_recipe("simclr", epochs=2), tmp_path / "eager")
    assert "compile            off (auto; compile=true may be faster on a GPU)" in capsys.readouterr().err
    assert min(frozen) > 100_000 and gc.get_freeze_count() == before
    with monkeypatch.context() as patch:
        train_until(5, short_recipe("simclr", epochs=2, compile=False), tmp_path / "run", patch)
    assert "compile            off\n" in capsys.readouterr().err
    backend(no_compiler)
    run = train(short_recipe("simclr", epochs=2, compile=True), tmp_path / "run", resume=True)
    assert "compile            on\n" in capsys.readouterr().err
    assert warnings_of(caplog) == [FAILED.format("paint_jointly"), FAILED.format("loss")]
    found, expected = weights(run.folder), weights(eager.folder)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert Run(run.folder).results()["training"]["resumed"] == ["step 4: compile False -> True"]


@pytest.mark.slow
def test_a_compiled_method_with_gradient_checkpointing_has_the_gradients_of_an_eager_one():
    method = build("simclr", "vit")
    other = copy.deepcopy(method)
    other.gradient_checkpointing_enable()
    for call in (method, torch.compile(other, backend="aot_eager", fullgraph=True)):
        call(views_of(method), progress())["loss"].backward()
    for (name, expected), found in zip(method.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)
