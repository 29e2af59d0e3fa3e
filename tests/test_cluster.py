"""Ray gives the bytes of a local run: several actors, one that is killed, and a cluster of two nodes."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from tests.builds import built, recipe
from tests.progress import recorder
from udasa import cluster, flow, run
from udasa.errors import UserError
from udasa.recipe import Workers

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]  # the warnings are of Ray's libraries


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory):
    """Ray on this machine, with room for a few actors however few cores there are."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (os.getcwd(), os.environ.get("PYTHONPATH", "")) if p)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def contents(folder):
    """Path -> sha256 of every file of a build but the recipe's workers, and what is not published."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("recipe.json", *flow.LOCAL))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_build_on_ray_has_the_bytes_of_a_local_one(on_ray, tmp_path):
    settings = recipe(shard_size=5, workers=Workers(count=3))
    local = built(tmp_path / "local", shard_size=5)
    flow.build(settings, tmp_path / "ray", runner="ray")
    assert contents(tmp_path / "ray") == contents(local)
    assert not list((tmp_path / "ray").rglob(run.UNFINISHED + "*"))


def test_a_build_begun_locally_goes_on_on_ray(on_ray, tmp_path):
    settings = recipe(shard_size=5, workers=Workers(count=2))
    whole = built(tmp_path / "whole", shard_size=5)
    part = tmp_path / "part"
    flow.claim(part, settings)
    flow.pin_models(settings, part)
    flow.collect_prompts(settings, part)
    source, step = flow.steps(settings, part)[0]
    run.run_local(part, source, step)
    for shard in list((part / "responses").iterdir())[2:9]:
        shard.unlink()
    flow.build(settings, part, runner="ray")
    assert contents(part) == contents(whole)


class Fragile:
    """Adds the worker's pid; the first to see shard 3 kills itself."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, table, report):
        mark = self.folder / "killed"
        if table["x"][0].as_py() == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.folder / "log").open("a") as log:
            log.write(f"{table['x'][0].as_py()} {os.getpid()}\n")
        return pa.table({"x": pa.array([10 * x for x in table["x"].to_pylist()], pa.int64())})


def shards(folder, count):
    for number in range(count):
        run.write_shard(folder / "in" / f"{number:05d}.parquet", pa.table({"x": pa.array([number], pa.int64())}))


def test_the_shard_of_a_killed_actor_is_done_by_another(on_ray, tmp_path):
    shards(tmp_path, 8)
    seen = []
    cluster.run_ray(
        tmp_path, "in", run.Step("out", lambda: Fragile(tmp_path)), Workers(count=2, cpus=0.5), recorder(seen)
    )
    assert (tmp_path / "killed").exists()
    assert run.read(tmp_path, "out")["x"].to_pylist() == [10 * i for i in range(8)]
    done = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(int(x) for x, _ in done) == list(range(8))
    assert len({pid for _, pid in done}) >= 2
    assert seen[-1] == ("out", 8, 8)


def test_nothing_is_started_when_all_is_done(on_ray, tmp_path):
    shards(tmp_path, 2)
    run.run_local(tmp_path, "in", run.Step("out", lambda: Fragile(tmp_path)))
    cluster.run_ray(tmp_path, "in", run.Step("out", lambda: pytest.fail("loaded")), Workers())


def test_workers_that_never_fit_are_refused(on_ray, tmp_path):
    shards(tmp_path, 9)
    with pytest.raises(UserError, match="9 workers need 9 CPUs and the Ray cluster has 4"):
        cluster.run_ray(tmp_path, "in", run.Step("out", lambda: Fragile(tmp_path)), Workers(count=9))


TWO_NODES = """
import sys, time
from pathlib import Path
from tests.builds import recipe
from udasa import cluster, flow
from udasa.recipe import Workers
import ray

cluster.connect(sys.argv[2])
for _ in range(600):
    if sum(node["Alive"] for node in ray.nodes()) == 2:
        break
    time.sleep(0.1)
flow.build(recipe(shard_size=5, workers=Workers(count=4)), Path(sys.argv[1]), runner="ray", ray_address=sys.argv[2])
print(sum(node["Alive"] for node in ray.nodes()))
"""


@contextmanager
def node(env, *options):
    """A Ray node with two CPUs in a process of its own, which ends with the block."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=2", "--disable-usage-stats"]
    with subprocess.Popen(
        [*command, *options], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            yield running
        finally:
            running.terminate()


def wait_for(port, running):
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert running.poll() is None, "the node ended"
        time.sleep(0.1)
    pytest.fail(f"no Ray node answers at port {port}")


def test_a_cluster_of_two_nodes_gives_the_same_bytes(tmp_path):
    """Two `ray start` nodes on loopback, joined by address; neither alone has the CPUs for the workers."""
    local = built(tmp_path / "local", shard_size=5)
    paths = {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    env = os.environ | paths | {"RAY_USAGE_STATS_ENABLED": "0"}
    port, address = 46379, "127.0.0.1:46379"
    short = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets must fit in 107 characters
    head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={short}")
    with node(env, *head) as first:
        wait_for(port, first)
        with node(env, f"--address={address}"):
            done = subprocess.run(
                [sys.executable, "-c", TWO_NODES, str(tmp_path / "ray"), address],
                env=env, check=True, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
    assert done.stdout.split()[-1] == "2"
    assert contents(tmp_path / "ray") == contents(local)
