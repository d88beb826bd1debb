import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest

from rna_watch.errors import UsageError
from rna_watch.reproduce.images import formats
from tests.reproduce.image_files import BATCHES, idx, write_cifar, write_mnist

PACKED = [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]


@pytest.mark.parametrize(("ending", "pack"), PACKED, ids=["plain", "gzip", "xz"])
@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar_is_read_as_written(tmp_path, ending, pack, inner):
    """Records are taken apart into images (height, width, colour) and labels, packed or not, in the folder or within it."""
    images, labels = write_cifar(tmp_path / inner, ending, pack)
    train, test = formats.cifar10(tmp_path)
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, labels)
    assert test.images.shape == (3, 32, 32, 3)


def test_cifar_is_read_from_its_archive(tmp_path):
    """The archive as it is distributed needs no unpacking."""
    write_cifar(tmp_path / "cifar-10-batches-bin")
    plain, _ = formats.cifar10(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(other / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in BATCHES:
            tar.add(tmp_path / "cifar-10-batches-bin" / name, f"cifar-10-batches-bin/{name}")
    packed, _ = formats.cifar10(other)
    np.testing.assert_array_equal(packed.images, plain.images)
    np.testing.assert_array_equal(packed.labels, plain.labels)


@pytest.mark.parametrize(("ending", "pack"), PACKED, ids=["plain", "gzip", "xz"])
def test_mnist_is_read_as_written(tmp_path, ending, pack):
    """Images come with a channel, labels as they are."""
    (images, labels), _ = write_mnist(tmp_path, train=20, test=10, pack=pack, ending=ending)
    train, test = formats.mnist(tmp_path)
    np.testing.assert_array_equal(train.images[..., 0], images)
    np.testing.assert_array_equal(train.labels, labels)
    assert test.images.shape == (10, 28, 28, 1)


def test_absent_data_name_the_option(tmp_path):
    """The message names the missing file and the option."""
    for reader, name in ((formats.cifar10, "data_batch_1.bin"), (formats.mnist, "train-images-idx3-ubyte")):
        with pytest.raises(UsageError, match=f"{name}.*--data"):
            reader(tmp_path)


def broken(tmp_path, name, change):
    """A folder of MNIST in which one file was changed."""
    write_mnist(tmp_path, train=20, test=10, pack=bytes, ending="")
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1], "announces the shape"),
        ("train-images-idx3-ubyte", lambda content: b"\x1f\x8b" + content[2:], "no IDX file"),
        ("train-images-idx3-ubyte", lambda _: b"", "no IDX file"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros(19, np.uint8)), "do not belong together"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.full(20, 10, np.uint8)), "holds the label 10"),
        ("train-images-idx3-ubyte", lambda _: idx(np.zeros((20, 0, 28), np.uint8)), "no image in it"),
    ],
    ids=["cut off", "other type", "empty", "too few labels", "unknown label", "no pixels"],
)
def test_damaged_mnist_is_refused(tmp_path, name, change, said):
    """What does not hold together is named, with the file."""
    with pytest.raises(UsageError, match=said) as error:
        formats.mnist(broken(tmp_path, name, change))
    assert name in str(error.value)


def test_parts_of_two_sizes_are_refused(tmp_path):
    """Test images of another size than the training images are another dataset's."""
    write_mnist(tmp_path, train=20, test=10, pack=bytes, ending="")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((10, 32, 32), np.uint8)))
    with pytest.raises(UsageError, match="the shape .*28, 28.*32, 32.*do not belong together"):
        formats.mnist(tmp_path)


def test_a_file_that_cannot_be_unpacked_is_refused(tmp_path):
    """A cut off gzip file is named."""
    write_mnist(tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match="t10k-labels.*cannot be read"):
        formats.mnist(tmp_path)


def test_a_missing_part_is_named(tmp_path):
    """One file of the set is not there."""
    write_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UsageError, match="t10k-images-idx3-ubyte.*missing"):
        formats.mnist(tmp_path)


def test_damaged_cifar_is_refused(tmp_path):
    """Half a record, an unknown label, and an archive without the file are named."""
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_1.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(UsageError, match=r"data_batch_1.*no whole number of records"):
        formats.cifar10(tmp_path)
    path.write_bytes(bytes([11]) + content[1:])
    with pytest.raises(UsageError, match="label 11"):
        formats.cifar10(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(other / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(UsageError, match=r"data_batch_1\.bin cannot be read"):
        formats.cifar10(other)


def test_real_data_have_their_known_means(data):
    """Sizes, class counts and channel means of the real sets."""
    if not (data / "cifar-10-batches-bin").is_dir():
        pytest.skip(f"no CIFAR-10 at {data}: set RNA_WATCH_DATA to the data folder")
    train, test = formats.cifar10(data)
    assert train.images.shape == (50000, 32, 32, 3)
    assert test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    np.testing.assert_allclose(train.images.reshape(-1, 3).mean(0) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)
    digits, others = formats.mnist(data)
    assert (len(digits.labels), len(others.labels)) == (60000, 10000)
    assert digits.images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
