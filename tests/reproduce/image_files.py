"""Small files of the formats of MNIST and CIFAR-10, with images that a small network can tell apart."""

import gzip
import struct

import numpy as np

BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def digits(count, seed, side=28):
    """Images (n, side, side) of gratings, ten directions, with noise; and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    random.shuffle(labels)
    y, x = np.mgrid[:side, :side]
    angle = np.pi * labels[:, None, None] / 10
    wave = np.sin(0.7 * (x * np.cos(angle) + y * np.sin(angle)))
    images = 128 + 40 * wave + 70 * random.standard_normal((count, side, side))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.uint8)


def idx(array):
    """The bytes of an IDX file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, train=400, test=100, pack=gzip.compress, ending=".gz"):
    """The four files; returns (train images, train labels)."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = digits(count, seed)
        (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))
        written.append((images, labels))
    return written


def cifar_records(count, seed):
    """Records of one label byte and three planes of 32 x 32, and the images (n, 32, 32, 3) and labels in them."""
    random = np.random.default_rng(seed)
    images, labels = digits(count, seed, side=32)
    images = np.stack([images, 255 - images, random.integers(0, 256, images.shape, np.uint8)], axis=-1)
    planes = images.transpose(0, 3, 1, 2).reshape(count, -1)
    return np.hstack([labels[:, None], planes]).astype(np.uint8).tobytes(), images, labels


def write_cifar(folder, ending="", pack=bytes, count=3):
    """The six files, `count` records each; the images and labels of the first five."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = [], []
    for seed, name in enumerate(BATCHES):
        content, x, y = cifar_records(count, seed)
        (folder / f"{name}{ending}").write_bytes(pack(content))
        images.append(x)
        labels.append(y)
    return np.concatenate(images[:5]), np.concatenate(labels[:5])
