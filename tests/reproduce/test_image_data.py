import numpy as np
import pytest
import torch

from rna_watch.errors import UsageError
from rna_watch.reproduce.imagenet import generated
from rna_watch.reproduce.images import data, folder
from rna_watch.reproduce.images.architectures import ARCHITECTURES, build
from rna_watch.reproduce.images.data import InMemory
from rna_watch.reproduce.images.formats import Labelled
from rna_watch.reproduce.images.spec import RunSpec, read, write
from tests.reproduce.image_files import cifar_records, write_mnist

CPU = torch.device("cpu")


def a_run(tmp_path, **changes):
    """A spec of a small run."""
    values = {"dataset": "mnist", "network": "vgg4", "optimizer": "momentum", "seed": 0, "epochs": 4, "held_out": 50}
    return RunSpec(data=tmp_path, **{**values, **changes})


@pytest.fixture
def coloured(tmp_path):
    """CIFAR-10's form in memory: 60 images, 20 held out; the labels are the numbers of the images."""
    _, images, _ = cifar_records(60, 0)
    part = Labelled(images=images, labels=np.arange(60, dtype=np.uint8))
    return InMemory(part, part, a_run(tmp_path, dataset="cifar10", held_out=20), CPU), images


def test_augmentation_is_a_crop_of_the_padded_image(coloured):
    """Every augmented image is a crop of its own padded image, flipped or not; all 40 appear, in another order by epoch."""
    loaded, images = coloured
    trained = {int(y) for _, y in loaded.train(1, 0, 16) for y in y}
    assert len(trained) == 40
    pixels = images[sorted(trained)].reshape(-1, 3) / 255
    mean, std = pixels.mean(0), pixels.std(0)
    flipped = offsets = 0
    for x, labels in loaded.train(1, 0, 16):
        for image, label in zip(x.numpy().transpose(0, 2, 3, 1), labels.tolist(), strict=True):
            found = []
            padded = np.pad(images[label] / 255, ((4, 4), (4, 4), (0, 0)))
            for top in range(9):
                for left in range(9):
                    crop = (padded[top : top + 32, left : left + 32] - mean) / std
                    found += [(top, left, flip) for flip in (1, -1) if np.allclose(crop[:, ::flip], image, atol=1e-5)]
            assert len(found) == 1
            flipped += found[0][2] == -1
            offsets += found[0][0] != 4
    assert 8 < flipped < 32
    assert offsets > 20


def test_batches_follow_from_epoch_and_seed_alone(coloured):
    """The same epoch and seed give the same bits; another epoch, another order."""
    loaded, _ = coloured

    def labels(epoch, seed):
        return [y for _, part in loaded.train(epoch, seed, 7) for y in part.tolist()]

    assert labels(1, 0) == labels(1, 0)
    assert labels(1, 0) != labels(2, 0) != labels(2, 1)
    for (x, _), (again, _) in zip(loaded.train(3, 1, 7), loaded.train(3, 1, 7), strict=True):
        assert torch.equal(x, again)
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_parts_are_disjoint(coloured):
    """What models are chosen on is never trained on; evaluated images are not augmented."""
    loaded, _ = coloured
    trained = {y for _, part in loaded.train(1, 0, 16) for y in part.tolist()}
    chosen = [y for _, part in loaded.held_out() for y in part.tolist()]
    assert len(chosen) == 20
    assert trained.isdisjoint(chosen)
    assert [y for _, part in loaded.test() for y in part.tolist()] == list(range(60))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(loaded.test(), loaded.test(), strict=True))


@pytest.mark.slow
def test_digits_are_never_flipped(tmp_path):
    """A mirrored digit is another sign: MNIST is cropped only."""
    (images, _), _ = write_mnist(tmp_path, train=60)
    loaded = data.load(a_run(tmp_path), CPU)
    x, _ = next(loaded.train(1, 0, 10))
    padded = [np.pad(image / 255, 4) for image in images]
    low, high = x.min(), x.max()
    for image in x[:, 0].numpy():
        scaled = (image - low.item()) / (high - low).item()
        crops = (p[t : t + 28, left : left + 28] for p in padded for t in range(9) for left in range(9))
        assert any(np.corrcoef(crop.ravel(), scaled.ravel())[0, 1] > 1 - 1e-6 for crop in crops)


def test_small_parts_can_be_asked_for(tmp_path):
    """`train_images` and `test_images` bound the parts, `held_out` comes first."""
    write_mnist(tmp_path, train=300, test=100)
    loaded = data.load(a_run(tmp_path, train_images=120, test_images=30), CPU)
    assert sum(len(y) for _, y in loaded.train(1, 0, 32)) == 120
    assert sum(len(y) for _, y in loaded.held_out()) == 50
    assert sum(len(y) for _, y in loaded.test()) == 30


@pytest.mark.parametrize(
    ("name", "parameters", "some_key"),
    [
        ("vgg19", 20_040_522, "features.49.weight"),
        ("resnet18", 11_173_962, "layer4.1.conv2.weight"),
        ("densenet121", 6_956_298, "dense4.15.conv2.weight"),
        ("resnet8", 78_042, "layer3.0.shortcut.0.weight"),
    ],
)
def test_networks_are_those_of_the_authors_code(name, parameters, some_key):
    """The numbers of parameters of the CIFAR forms, and their names."""
    with torch.device("meta"):
        network = build(name, 3, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert some_key in network.state_dict()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_gives_logits(name):
    """Of images of its kind; for MNIST's single channel too, where it is no ImageNet form."""
    channels = 3 if name.startswith("imagenet") else 1
    network = build(name, channels, 7).eval()
    with torch.no_grad():
        assert network(torch.randn(2, channels, 32, 32)).shape == (2, 7)


def test_the_schedule_is_the_authors(tmp_path):
    """lr(e) = lr_f + (lr_0 - lr_f) (1 - e / (E - s - 1)) for e < E - s, then lr_f; E = 100, s = 10, e from 0."""
    for optimizer, first, last in (("sgd", 1.0, 0.01), ("momentum", 0.1, 0.001)):
        run = a_run(tmp_path, optimizer=optimizer, epochs=100)
        for e in range(100):
            expected = last + (first - last) * (1 - e / 89) if e < 90 else last
            assert run.learning_rate(e + 1) == pytest.approx(expected, rel=1e-12)
    flat = a_run(tmp_path, schedule="flat")
    assert {flat.learning_rate(epoch) for epoch in range(1, 5)} == {0.1}
    steps = a_run(tmp_path, schedule="steps", epochs=90)
    assert [steps.learning_rate(e) for e in (1, 30, 31, 60, 61, 90)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    assert a_run(tmp_path, epochs=1).learning_rate(1) == 0.001


def test_a_spec_is_kept_and_not_mixed(tmp_path):
    """What was written is read; a folder of other settings is refused; another place of the same data is no difference."""
    run = a_run(tmp_path)
    write(run, tmp_path / "run")
    assert read(tmp_path / "run") == run
    write(a_run(tmp_path / "moved"), tmp_path / "run")
    with pytest.raises(UsageError, match="other settings"):
        write(a_run(tmp_path, epochs=5), tmp_path / "run")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images laid out like ImageNet."""
    pytest.importorskip("PIL")
    return generated(tmp_path_factory.mktemp("pictures") / "images")


def from_folder(pictures, **changes):
    """The data of a small run on a folder."""
    values = {"dataset": "folder", "network": "imagenet-resnet18", "held_out": 20, "side": 32, "bf16": False}
    return folder.FolderData(a_run(pictures, **{**values, **changes}), CPU)


def test_a_folder_is_read(pictures):
    """Four classes; held-out images are split off; batches are normalized and channels last."""
    loaded = from_folder(pictures)
    assert loaded.classes == 4
    trained = list(loaded.train(1, 0, 16))
    assert [len(y) for _, y in trained] == [16] * 6
    assert sum(len(y) for _, y in loaded.held_out()) == 20
    assert sorted(y for _, part in loaded.test() for y in part.tolist()) == sorted([0, 1, 2, 3] * 10)
    assert trained[0][0].shape == (16, 3, 32, 32)
    assert trained[0][0].is_contiguous(memory_format=torch.channels_last)
    assert abs(trained[0][0].mean().item()) < 1


def test_augmentation_does_not_depend_on_the_workers(pictures):
    """Two worker processes or none: the same bits."""
    for (x, y), (again, labels) in zip(
        from_folder(pictures).train(2, 0, 50), from_folder(pictures, threads=3).train(2, 0, 50), strict=True
    ):
        assert torch.equal(x, again)
        assert torch.equal(y, labels)


def test_crops_are_torchvisions():
    """Area between 8 and 100 %, ratio between 3:4 and 4:3, inside the image; the middle is 224 / 256 of the shorter side."""
    random = np.random.default_rng(0)
    boxes = [folder._crop(60, 40, random) for _ in range(500)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 60 + 1e-9
        assert 0 <= top < bottom <= 40 + 1e-9
        assert 0.08 <= (right - left) * (bottom - top) / 2400 <= 1
    assert np.std([left for left, *_ in boxes]) > 5
    assert folder._middle(512, 256) == (144, 16, 368, 240)


def test_a_folder_of_another_form_is_refused(pictures, tmp_path):
    """No train, no images, other classes, and a file that is no image: each is named."""
    with pytest.raises(UsageError, match=r"train.*--data"):
        from_folder(tmp_path)
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "val" / "a").mkdir(parents=True)
    with pytest.raises(UsageError, match="no images"):
        from_folder(tmp_path)
    (tmp_path / "val" / "a").rmdir()
    for part, name in (("train", "a"), ("val", "b")):
        (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
        for number in "12":
            (tmp_path / part / name / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="different classes: a"):
        from_folder(tmp_path)
    (tmp_path / "val" / "b").rename(tmp_path / "val" / "a")
    with pytest.raises(UsageError, match=r"\d\.png cannot be read as an image"):
        list(from_folder(tmp_path, held_out=1).test())


def test_more_than_there_is_cannot_be_held_out(pictures, tmp_path):
    """Neither of a folder nor of files: the message says how many there are."""
    with pytest.raises(UsageError, match="held_out is 500.*120 images"):
        from_folder(pictures, held_out=500)
    write_mnist(tmp_path, train=40)
    with pytest.raises(UsageError, match="held_out is 50.*40 images"):
        data.load(a_run(tmp_path), CPU)


def test_part_of_a_folder_has_all_classes(pictures):
    """`test_images` takes some at random, not the first classes."""
    some = [y for _, part in from_folder(pictures, test_images=12).test() for y in part.tolist()]
    assert len(some) == 12
    assert len(set(some)) > 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmentation_on_a_gpu_is_that_of_the_processor(coloured):
    """The same crops and flips, up to rounding."""
    loaded, images = coloured
    part = Labelled(images=images, labels=np.arange(60, dtype=np.uint8))
    other = InMemory(part, part, a_run("", dataset="cifar10", held_out=20), torch.device("cuda"))
    for (x, y), (again, labels) in zip(loaded.train(1, 0, 16), other.train(1, 0, 16), strict=True):
        torch.testing.assert_close(x, again.cpu())
        assert torch.equal(y, labels.cpu())
