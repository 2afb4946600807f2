"""Hugging Face Jobs on a Hub on loopback, whose machine runs the command that was sent in a process of its own."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import pytest
import yaml
from cli_client import cli_client
from huggingface_hub import HfApi, JobHardwareInfo
from jobs_server import HARDWARE, JobsServer
from small_digits import small_digits

from sslzoo.errors import InputError
from sslzoo.jobs import access, following, hardware
from sslzoo.jobs.wheel import build_wheel, constraints, wheel_name
from sslzoo.recipe import read_recipe

ADA = "hf_adas_secret"
SHORT = ("--set", "epochs=3", "batch_size=256", "checkpoint_every=2", "knn_every=0", "name=short")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "machines").mkdir()
    with JobsServer({ADA: ("ada", "lab")}, folder / "machines") as server, cli_client(server, folder / "here", ADA) as client:
        yield server, client


@pytest.fixture
def hub(started):
    """The server, empty, and a client. Both live for all tests, as starting them takes seconds."""
    server, client = started
    yield server, client
    for job in server.jobs.values():
        job.process.kill()
    server.jobs.clear()
    server.repositories.clear()
    server.log.clear()


def plan_of(out: str) -> dict[str, str]:
    return dict(re.findall(r"^  (\w+) +(.*)$", out, re.MULTILINE))


def test_dry_run_shows_the_job_and_sends_nothing(hub):
    server, client = hub
    before = len(server.log)
    outcome = client("train", "digits/simclr", *SHORT, "--on-jobs", "a10g-small", "--timeout", "90m", "--evaluate", "--dry-run")
    assert outcome.code == 0
    assert {method for method, _ in server.log[before:]} == {"GET"} and not server.repositories and not server.jobs
    plan = plan_of(outcome.out)
    assert plan["image"] == "ghcr.io/astral-sh/uv:python3.12-bookworm" and plan["secrets"] == "HF_TOKEN" and ADA not in outcome.out
    assert plan["hardware"] == "a10g-small: Nvidia A10G - small, 4 vCPU, 15 GB of memory, 24 GB on the GPU"
    assert plan["price"] == "$1.05 an hour, so $1.57 at most until the timeout" and plan["timeout"] == "5,400 s"
    assert plan["work"] == "3 epochs of 1,297 images, 3,891 in all"
    assert plan["hours"].startswith("unknown: no card of sslzoo says how fast simclr with res6 at 16 px is on A10G")
    assert plan["publishes"] == "ada/short, public" and plan["checkpoints"].startswith("the private repository ada/short-checkpoints")
    assert "--minutes 80.0 --evaluate" in plan["command"] and "--to ada" in plan["command"]


def test_what_the_machine_cannot_do_is_one_line_before_anything_is_sent(hub, tmp_path):
    server, client = hub

    def error(*arguments, command=("train", "digits/simclr"), flavor="a10g-small"):
        return client.error(*command, *SHORT[: 6 * (command[0] == "train")], *arguments, "--on-jobs", flavor)

    before = len(server.log)
    assert "did you mean 'a10g-small'" in error(flavor="a10g-smal")
    assert "has 2 accelerators, and a job trains on one" in error(flavor="a10g-largex2")
    assert "which a job's machine cannot see: upload it to the Hub" in error(f"dataset={small_digits()}")
    assert "the Hub shows you no data set 'ada/cats'" in error("dataset=ada/cats")
    assert "unknown namespace of yours 'eve'" in error("--to", "eve")
    assert "write 90m, 4h or 1d" in error("--timeout", "soon")
    assert "--output is of a run on this machine" in error("--output", "run")
    assert "is not on the Hub" in error(command=("evaluate", str(tmp_path)))
    assert "--on is" in error("--on", small_digits(), command=("evaluate", "ada/short"))
    assert "cannot find ada/short: the Hub does not find it (404" in error(command=("evaluate", "ada/short"))
    assert "--private is of --to" in client.error("train", "digits/simclr", "--private")
    assert "--to is of --on-jobs" in client.error("evaluate", "ada/short", "--to", "ada")
    assert "--dry-run is of --on-jobs" in client.error("train", "digits/simclr", "--dry-run")
    assert "has no job job77" in client.error("jobs", "job77")
    assert {method for method, _ in server.log[before:]} <= {"GET"} and not server.jobs


def test_number_of_images_is_the_one_on_the_data_sets_card(hub):
    server, client = hub
    splits = [{"name": "test", "num_examples": 7}, {"name": "train", "num_examples": 5000}]
    for info, expected in (([1], "does not say how many images"), ({"splits": splits}, "3 epochs of 5,000 images, 15,000 in all")):
        server.add("ada/birds", {"README.md": f"---\ndataset_info: {json.dumps(info)}\n---"}, "datasets")
        plan = client("train", "digits/simclr", "--set", "dataset=ada/birds", "epochs=3", "--on-jobs", "cpu-basic", "--dry-run")
        assert expected in plan_of(plan.out)["work"]


def test_hours_come_from_a_card_of_the_same_training_on_that_gpu_alone(monkeypatch):
    recipe, gpu = read_recipe("digits/simclr"), JobHardwareInfo(**HARDWARE[1])
    entry = SimpleNamespace(
        name="sslzoo/a", method="simclr", encoder="res6", image_size=16, batch_size=128, processes=1, images=1000, epochs=36, seconds=10.0,
        hardware="NVIDIA A10G",
    )  # fmt: skip
    other = SimpleNamespace(**vars(entry) | {"hardware": "NVIDIA A100", "seconds": 100.0})
    monkeypatch.setattr(hardware, "read_entries", lambda _: ([entry, other], []))
    assert hardware.estimate(recipe, hardware.Work(3600, 3600), gpu, 2.0).startswith("1.0, so $2.00, at the 3,600 images/s of sslzoo/a on")
    assert "At 1,000 images/s it would be 3.6 h" in hardware.estimate(read_recipe("digits/dino"), hardware.Work(3600, 3600), gpu, 2.0)
    assert hardware.estimate(recipe, hardware.Work(None, 3), gpu, 2.0).startswith("unknown")


def test_a_lost_answer_does_not_start_a_second_job(hub):
    server, client = hub
    count = len(server.jobs)
    server.cut("POST", "/api/jobs/", answered=True)
    error = client("evaluate", "facebook/none", "--on-jobs", "cpu-basic")
    assert error.code == 1 and len(server.jobs) == count  # no such model
    server.add("eve/model", {"config.json": "{}"})
    outcome = client("evaluate", "eve/model", "--on-jobs", "cpu-basic")
    assert outcome.code == 1 and "cannot start the job, look at `sslzoo jobs` first" in outcome.err and len(server.jobs) == count + 1


def test_progress_of_the_log_is_a_bar_in_a_terminal(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    steps = [f"step {step} of 3,000  loss {loss}  500 images/s  3 min left" for step, loss in (("1,200", 1.234), ("3,000", 1.1))]
    following._show(["hello", *steps])
    assert capsys.readouterr().out == "hello\n" and "1200/3000" in terminal.getvalue() and "loss 1.1" in terminal.getvalue()


def test_weights_on_this_machine_cannot_be_seen_either(tmp_path):
    access.check_on_hub("init_from", "facebook/dinov2-small@0123abc")
    with pytest.raises(InputError, match="init_from is '.*', which a job's machine cannot see"):
        access.check_on_hub("init_from", str(tmp_path))


@pytest.mark.slow
def test_dead_job_is_continued_by_the_same_command_publishes_and_is_evaluated(hub):
    server, client = hub
    command = ("train", "digits/simclr", *SHORT, "--on-jobs", "a10g-small", "--evaluate")
    dying = client.start(*command)
    wait_for(lambda: any(name.startswith("checkpoints/") for name in names(server, "ada/short-checkpoints")))
    (job,) = server.jobs.values()
    kill(job)
    outcome = dying()
    assert outcome.code == 1 and "job0 ended as ERROR (Job failed with exit code: -9): the same command again continues" in outcome.err
    last = max(int(name.split("/")[1][5:]) for name in names(server, "ada/short-checkpoints") if name.startswith("checkpoints/"))

    outcome = client(*command)
    assert outcome.code == 0, outcome
    log = outcome.out + outcome.err
    assert f"from step {last}" in log and "knn_top1" in log and f"{server.url}/ada/short" in log
    published = server.files("ada/short")
    assert json.loads(published["results.json"])["training"]["steps"] == 15 and "README.md" in published
    recipe = yaml.safe_load(published["recipe.yaml"])
    assert {"epochs": 3, "batch_size": 256, "name": "short"}.items() <= recipe.items()
    assert server.repository("ada/short-checkpoints").private and server.repository("ada/sslzoo-jobs").private

    first, second = (job.specification for job in server.jobs.values())
    assert first == second and first["secrets"] == {"HF_TOKEN": ADA} and first["timeoutSeconds"] == 4 * 3600
    assert ADA not in json.dumps({key: value for key, value in first.items() if key != "secrets"}) + log
    assert first["labels"] == {"sslzoo": "train", "name": "short"} and first["flavor"] == "a10g-small"
    plan = client(*command, "--dry-run").out
    assert first["command"][2] in plan  # as the dry run says

    listed = client("jobs").out.splitlines()
    assert len(listed) == 2 and "job1" in listed[1] and "COMPLETED" in listed[1] and "train short" in listed[1]
    again = client("jobs", "job1")
    assert again.code == 0 and "knn_top1" in again.out
    assert client("jobs", "job0").code == 1

    results = json.loads(published["results.json"])
    server.add("ada/short", {"results.json": json.dumps(results | {"numbers": []})})
    outcome = client("evaluate", "ada/short", "--protocol", "knn-instdisc-v2", "--on-jobs", "cpu-basic")
    assert outcome.code == 0 and "knn_top1" in outcome.out, outcome
    numbers = json.loads(server.files("ada/short")["results.json"])["numbers"]
    assert {number["protocol"] for number in numbers} == {"knn-instdisc-v2"}, "an evaluation adds its numbers to the published model"


def test_ctrl_c_leaves_the_job_running_and_the_same_command_finds_it(hub):
    server, client = hub
    specification = {"command": ["sleep", "300"], "arguments": [], "environment": {}, "flavor": "cpu-basic"}
    job = server.start("ada", specification | {"labels": {"sslzoo": "train", "name": "short"}})
    following = client.start("train", "digits/simclr", *SHORT, "--on-jobs", "cpu-basic")
    wait_for(lambda: ("GET", f"/api/jobs/ada/{job.id}/logs") in server.log)
    client.process.send_signal(signal.SIGINT)
    outcome = following()
    assert outcome.code == 0 and f"job {job.id} does this already" in outcome.out
    assert f"the job goes on: `sslzoo jobs {job.id} --namespace ada` comes back" in outcome.err and job.stage == "RUNNING"
    assert client("jobs", job.id, "--cancel").code == 0
    job.process.wait()
    assert job.stage == "CANCELED"


def test_wheel_is_whole_and_the_same_each_time(tmp_path):
    content = build_wheel()
    assert content == build_wheel()
    (tmp_path / wheel_name()).write_bytes(content)
    with zipfile.ZipFile(tmp_path / wheel_name()) as archive:
        assert {"sslzoo/cli.py", "sslzoo/hub/__init__.pyi", "sslzoo/recipes/digits/simclr.yaml"} <= set(archive.namelist())
        assert not [name for name in archive.namelist() if "__pycache__" in name]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path / "site"]
    subprocess.run([*command, tmp_path / wheel_name()], check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    assert (tmp_path / "site/bin/sslzoo").exists()
    assert "torch==" in constraints() and "+" not in constraints()


def test_without_a_token_that_may_write_nothing_is_sent(hub, monkeypatch):
    server, client = hub
    before = len(server.log)
    monkeypatch.setattr(server, "role", "read")
    assert "the token may not write in ada" in client.error("train", "digits/simclr", "--on-jobs", "cpu-basic")
    assert {method for method, _ in server.log[before:]} == {"GET"}
    monkeypatch.setattr(access, "get_token", lambda: None)
    with pytest.raises(InputError, match="there is no token: sign in with `hf auth login`"):
        access.writable_namespace(HfApi(), None)


def names(server, repository: str) -> list[str]:
    return list(server.files(repository)) if ("models", repository) in server.repositories else []


def kill(job) -> None:
    """As a machine that vanishes: all processes of the job at once."""
    os.killpg(job.process.pid, signal.SIGKILL)
    job.process.wait()


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
