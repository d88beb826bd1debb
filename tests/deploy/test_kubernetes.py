import os
import re
import shutil
import signal
import time

import pytest
import yaml

from rna_watch.config import load

from .conftest import DEPLOY, models, wait_for

EPOCHS = 4


def documents(name):
    """The objects of a file, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / name).read_text())}


def here(value, **folders):
    """A command, or any text, with folders of the container replaced by folders of this machine."""
    if isinstance(value, list):
        return [here(each, **folders) for each in value]
    for name, folder in folders.items():
        value = re.sub(rf"/{name}\b", str(folder), value)
    return value


def command_of(container, **folders):
    """What a container executes."""
    return here([*container["command"], *container.get("args", [])], **folders)


def probe_of(container, **folders):
    """What the kubelet executes to see whether a container lives."""
    return here(container["livenessProbe"]["exec"]["command"], **folders)


def containers(pod):
    """All containers of a pod, by name."""
    return {each["name"]: each for each in [*pod.get("initContainers", []), *pod["containers"]]}


@pytest.fixture
def job():
    """The pod of the Job with the side-car."""
    return documents("kubernetes-sidecar.yaml")["Job"]["spec"]["template"]["spec"]


@pytest.fixture
def settings(tmp_path):
    """The folder that the ConfigMap becomes, with Ray replaced by the local engine."""
    folder = tmp_path / "settings"
    folder.mkdir()
    for name, text in documents("kubernetes-sidecar.yaml")["ConfigMap"]["data"].items():
        (folder / name).write_text(here(text.replace("engine: ray", "engine: local"), **{"etc/rna-watch": folder}))
    return folder


def test_the_side_car_is_one_and_asks_for_no_gpu(job):
    """It is an init container that is always restarted, shares the run's volume, and has bounds but no GPU."""
    side_car, train = job["initContainers"][0], job["containers"][0]
    assert side_car["restartPolicy"] == "Always"
    assert "startupProbe" not in side_car, "one would hold up the training"
    shared = {mount["name"]: mount["mountPath"] for mount in side_car["volumeMounts"]}
    assert {mount["name"]: mount["mountPath"] for mount in train["volumeMounts"]} == {"runs": shared["runs"]}
    assert shared["shared-memory"] == "/dev/shm"
    assert {volume["name"] for volume in job["volumes"]} == set(shared)
    assert set(side_car["resources"]["limits"]) == {"cpu", "memory"}
    grace = job["terminationGracePeriodSeconds"]
    assert int(re.search(r"timeout (\d+)", side_car["args"][0])[1]) < grace


def test_the_settings_of_the_side_car_load(settings):
    """The ConfigMap holds a configuration that loads, with the evaluator next to it."""
    config = load(settings / "rna-watch.yaml", {})
    assert config.evaluator == f"{settings / 'evaluator.py'}:evaluate"
    text = documents("kubernetes-sidecar.yaml")["ConfigMap"]["data"]["rna-watch.yaml"]
    assert "engine: ray" in text


@pytest.mark.slow
def test_the_side_car_watches_the_training_and_finishes_its_last_checkpoint(
    job, settings, begin, finish, stages, tmp_path
):
    """The containers' own commands: models appear, the probe passes, and SIGTERM leaves no checkpoint undone."""
    folders = {"runs": tmp_path / "runs", "etc/rna-watch": settings}
    run = tmp_path / "runs" / "demo"
    side_car, train = job["initContainers"][0], job["containers"][0]
    probe = probe_of(side_car, **folders)
    assert finish(probe)[0] != 0, "the probe must fail before the side-car lives"
    watcher = begin(command_of(side_car, **folders))
    training = begin([str(EPOCHS) if part == "40" else part for part in command_of(train, **folders)])
    wait_for(lambda: finish(probe)[0] == 0, "sign of life", watcher)
    said, _ = training.communicate(timeout=120)
    assert training.returncode == 0, said
    assert f"epoch {EPOCHS}\n" in said
    watcher.send_signal(signal.SIGTERM)  # at once: the last checkpoint has not rested long enough to be read
    said, _ = watcher.communicate(timeout=120)
    assert watcher.returncode == 0, said
    assert said.index("stopped: signal SIGTERM") < said.index("stopped: done")
    assert stages(run)[f"epoch_{EPOCHS:03d}.pt"] == "published"
    assert f"epoch_{EPOCHS:03d}.pt" in models(run)


def test_the_probe_fails_when_signs_of_life_stop(job, finish, tmp_path):
    """A heartbeat that is three minutes old fails the probe; one that is new passes it."""
    folders = {"runs": tmp_path / "runs"}
    heartbeat = tmp_path / "runs" / "demo" / ".rna-watch" / "heartbeat.json"
    heartbeat.parent.mkdir(parents=True)
    heartbeat.touch()
    probe = probe_of(job["initContainers"][0], **folders)
    assert finish(probe)[0] == 0
    os.utime(heartbeat, (time.time() - 180, time.time() - 180))
    assert finish(probe)[0] != 0


@pytest.mark.slow
def test_a_side_car_that_another_start_would_not_help_stays_idle_until_the_end(job, settings, begin, finish, tmp_path):
    """After a wrong configuration nothing is left for the kubelet to restart; the probe passes, and the log tells."""
    (settings / "rna-watch.yaml").write_text("windw: 3\n")
    folders = {"tmp": tmp_path, "runs": tmp_path / "runs", "etc/rna-watch": settings}
    side_car = job["initContainers"][0]
    watcher = begin(command_of(side_car, **folders))
    wait_for(lambda: finish(probe_of(side_car, **folders))[0] == 0, "idle side-car", watcher)
    assert watcher.poll() is None
    watcher.send_signal(signal.SIGTERM)
    said, _ = watcher.communicate(timeout=120)
    assert watcher.returncode == 2
    assert "did you mean 'window'" in said
    assert "rna-watch ended with status 2, which another start would not change" in said


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, True), (2, False), (3, False), (137, True)])
def test_the_kubelet_restarts_a_side_car_only_where_that_may_help(
    job, settings, begin, finish, fake, tmp_path, status, again
):
    """It ends with 1 and with the statuses of signals; with 0, 2 and 3 it stays."""
    folders = {"tmp": tmp_path, "runs": tmp_path / "runs", "etc/rna-watch": settings}
    fake(status)
    side_car = job["initContainers"][0]
    watcher = begin(command_of(side_car, **folders))
    if again:
        assert watcher.wait(timeout=120) == status
    else:
        wait_for((tmp_path / "rna-watch-ended").exists, "idle side-car", watcher)
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(timeout=120) == status
    assert finish(probe_of(side_car, **folders))[0] == again


@pytest.mark.parametrize("name", ["kubernetes-sidecar.yaml", "kubernetes-shared-processes.yaml"])
def test_the_side_car_needs_no_root_and_writes_to_volumes_alone(name):
    """Its root file system is read-only; what it writes lies on the run's volume, in /tmp and in /dev/shm."""
    pod = documents(name)["Job"]["spec"]["template"]["spec"]
    side_car = containers(pod)["rna-watch"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert side_car["securityContext"]["readOnlyRootFilesystem"]
    assert not side_car["securityContext"]["allowPrivilegeEscalation"]
    written = {mount["mountPath"] for mount in side_car["volumeMounts"] if not mount.get("readOnly")}
    assert written == {"/runs", "/tmp", "/dev/shm"}
    assert {each["name"]: each.get("value") for each in side_car["env"]}["HOME"] == "/tmp"
    assert side_car["readinessProbe"]["exec"]["command"] == ["rna-watch", "status", "--check", "/runs/demo"]
    assert side_car["readinessProbe"]["periodSeconds"] == 60


@pytest.fixture
def sharing(settings, tmp_path):
    """The pod whose containers share their processes: its commands and variables with the folders of this machine."""
    pod = documents("kubernetes-shared-processes.yaml")["Job"]["spec"]["template"]["spec"]
    assert pod["shareProcessNamespace"]
    folders = {"runs": tmp_path / "runs", "etc/rna-watch": settings}
    side_car, train = containers(pod)["rna-watch"], containers(pod)["train"]
    variables = {each["name"]: here(each["value"], **folders) for each in side_car["env"]}
    command = [str(EPOCHS) if part == "40" else part for part in command_of(train, **folders)]
    return command_of(side_car, **folders), variables, command


def test_a_side_car_that_shares_processes_ends_with_the_training(sharing, begin, stages, tmp_path):
    """It begins first, finds the training, does its last checkpoint, and ends with 0, so that the Job completes."""
    ours, variables, training = sharing
    side_car = begin(ours, **variables)
    train = begin(training)
    assert train.wait(timeout=120) == 0
    said, _ = side_car.communicate(timeout=120)
    assert side_car.returncode == 0, said
    assert "has ended (--with-pid)" in said
    assert stages(tmp_path / "runs" / "demo")[f"epoch_{EPOCHS:03d}.pt"] == "published"


@pytest.mark.slow
def test_a_training_that_never_begins_does_not_hold_the_job(sharing, begin):
    """After its time the side-car does what is there once, says why, and ends with 0."""
    ours, variables, _ = sharing
    side_car = begin(ours, **(variables | {"SECONDS_TO_BEGIN": "1"}))
    said, _ = side_car.communicate(timeout=120)
    assert side_car.returncode == 0, said
    assert "in its command line has begun" in said


def test_the_deployment_for_many_runs_is_one_process_that_writes_to_volumes_alone():
    """One replica at a time, no root, a read-only root file system, settings that load, and a volume for several pods."""
    found = documents("kubernetes-many-runs.yaml")
    spec = found["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
    assert container["readinessProbe"]["exec"]["command"] == ["rna-watch", "status", "--check", "/runs"]


@pytest.mark.slow
def test_the_deployment_watches_all_runs_of_the_volume(begin, finish, run, tmp_path):
    """Its own command and settings: each run gets its models, the probe passes, and SIGTERM ends it with 0."""
    found = documents("kubernetes-many-runs.yaml")
    [container] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    folders = {"runs": tmp_path / "volume", "etc/rna-watch": tmp_path / "settings"}
    folders["etc/rna-watch"].mkdir()
    settings = found["ConfigMap"]["data"]["rna-watch.yaml"].replace("evaluator:", "#").replace("metric:", "#")
    (folders["etc/rna-watch"] / "rna-watch.yaml").write_text(settings)
    shutil.copytree(run, folders["runs"] / "lr1")
    shutil.copytree(run, folders["runs"] / "lr2")
    watcher = begin(command_of(container, **folders))
    wait_for(lambda: [len(models(folders["runs"] / name)) for name in ("lr1", "lr2")] == [2, 2], "models", watcher)
    assert finish(probe_of(container, **folders))[0] == 0
    watcher.send_signal(signal.SIGTERM)
    said, _ = watcher.communicate(timeout=120)
    assert watcher.returncode == 0, said


def test_the_ray_cluster_fits_rna_watch():
    """Token, service name, volume, image and cores of the two objects agree."""
    found = documents("kuberay.yaml")
    cluster, pod = found["RayCluster"], found["Job"]["spec"]["template"]["spec"]
    assert cluster["apiVersion"] == "ray.io/v1"
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["rayVersion"] in (DEPLOY.parent / "constraints.txt").read_text()
    [driver] = pod["containers"]
    token = {each["name"]: each for each in driver["env"]}["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": cluster["metadata"]["name"], "key": "auth_token"}
    group = cluster["spec"]["workerGroupSpecs"][0]
    pods = [cluster["spec"]["headGroupSpec"]["template"]["spec"], group["template"]["spec"], pod]
    everywhere = [container for each in pods for container in each["containers"]]
    assert len({container["image"] for container in everywhere}) == 1
    assert all(container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}] for container in everywhere)
    assert all(each["volumes"] == pod["volumes"] for each in pods)
    arguments = driver["args"]
    assert f"ray://{cluster['metadata']['name']}-head-svc:10001" in arguments
    assert pod["restartPolicy"] == "Never"
    [rule] = found["Job"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    used = sum(int(arguments[arguments.index(option) + 1]) for option in ("--workers", "--evaluation-threads"))
    assert used == group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])


@pytest.mark.slow
def test_the_command_beside_the_ray_cluster_watches(run, begin, finish):
    """Its command with the local engine instead of the cluster writes models; its probe passes; `stop` ends it with 0."""
    [container] = documents("kuberay.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    folders = {"runs/demo": run}
    watcher = begin([*command_of(container, **folders), "--engine", "local"])
    wait_for(lambda: len(models(run)) == 2, "models", watcher)
    assert finish(probe_of(container, **folders))[0] == 0
    assert finish(["rna-watch", "stop", run])[0] == 0
    assert watcher.wait(timeout=120) == 0
