import re
from pathlib import Path

import pytest
import yaml

from rna_watch.config import RunConfig, load

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
_SETTING = re.compile(r"^(#?)([a-z_]+): (.+)$")
_DEFAULT = re.compile(r"^Default: (.+?)\.?(?: \(.*\)\.?)?$")


def settings(file):
    """Every setting of a file, switched on or off: (name, value, the comment lines above it, whether it is on)."""
    found, comment = [], []
    for line in file.read_text().splitlines():
        if match := _SETTING.match(line):
            found.append((match[2], yaml.safe_load(match[3]), comment, not match[1]))
            comment = []
        else:
            comment = [*comment, line.removeprefix("# ")] if line.startswith("# ") else []
    return found


ALL = [pytest.param(*item, id=f"{file.stem}-{item[0]}-{item[1]}") for file in FILES for item in settings(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_loads_and_means_what_it_says(file):
    """A file gives a configuration that holds exactly the values of the settings that are switched on."""
    expected = {name: value for name, value, _, on in settings(file) if on}
    assert yaml.safe_load(file.read_text()) == expected
    loaded = load(file, {}).model_dump()
    assert {name: loaded[name] for name in expected} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()
    }


@pytest.mark.parametrize(("name", "value", "comment", "on"), ALL)
def test_a_setting_is_explained_with_its_true_default(name, value, comment, on):
    """Above every setting stands what it does, and last its default, which is the default that the program has."""
    assert name in RunConfig.model_fields
    stated = yaml.safe_load(_DEFAULT.match(comment[-1])[1])
    assert _as_setting(name, None if stated == "none" else stated) == RunConfig.model_fields[name].default
    if on:
        explanation = " ".join(comment[:-1])
        assert len(explanation.split()) >= 4, f"{name} is not explained"
    else:
        assert _as_setting(name, value) != RunConfig.model_fields[name].default, "a default need not be switched on"


def _as_setting(name, value):
    """A value as the configuration holds it; "none" stands for an empty list too."""
    default = RunConfig.model_fields[name].default
    if value is None:
        return () if default == () else None
    return getattr(RunConfig(**{name: value}), name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_settings_that_are_switched_off_load_when_switched_on(file, tmp_path):
    """Taking the # away, and switching off what it replaces, gives a file that loads."""
    values = yaml.safe_load(file.read_text())
    for name, value, _, on in settings(file):
        if not on:
            values[name] = value
            if name == "evaluate_command":
                del values["evaluator"]
    changed = tmp_path / file.name
    changed.write_text(yaml.safe_dump(values))
    loaded = load(changed, {})
    assert (loaded.evaluator is None) == (loaded.evaluate_command is not None)


def test_the_former_name_of_the_local_engine_still_works(tmp_path):
    """`inline` means `local`, from a file and from the command line."""
    file = tmp_path / "old.yaml"
    file.write_text("engine: inline\n")
    assert load(file, {}).engine == load(None, {"engine": "inline"}).engine == "local"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_evaluator_that_is_named_exists(file):
    """The evaluator's path, taken from the root of the repository, is a file that defines the function."""
    path, _, function = load(file, {}).evaluator.rpartition(":")
    assert f"def {function}(" in (CONFIGS.parent / path).read_text()


def test_the_job_script_of_the_cluster_gets_the_cores_that_its_settings_use():
    """RNA_WATCH_CPUS in the comment of the cluster's settings is workers and evaluator threads together."""
    file = CONFIGS / "resnet152-cluster.yaml"
    config = load(file, {})
    stated = int(re.search(r"RNA_WATCH_CPUS=(\d+)", file.read_text())[1])
    assert stated == config.workers + config.evaluation_threads
