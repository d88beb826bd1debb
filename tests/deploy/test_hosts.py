import re

import pytest

from .conftest import DEPLOY

FILES = sorted(file for folder in (DEPLOY, DEPLOY.parent / "configs") for file in folder.iterdir() if file.is_file())
PUBLIC = ("docker.io/library/", "docker.io/rayproject/")
KUBERNETES_NAMES = ("ray.io/v1", "nvidia.com/gpu")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_host_is_named_but_public_images(file):
    """No file names a server: no address, and no image but our own ones and well-known public ones."""
    text = file.read_text()
    assert "http:" not in text
    assert "https:" not in text
    named = re.findall(r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:io|com|org|net|dev)/[\w./:-]*", text)
    assert all(name.startswith(PUBLIC + KUBERNETES_NAMES) for name in named), named
