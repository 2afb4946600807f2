"""Images of any number of channels, of 8 and 16 bits: from every kind of source, resident and streamed, without loss."""

import gc
import io
import struct
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
import tifffile
import torch
from data_sets import CPU, STREAMED, load, refused
from PIL import Image

from sslzoo.data import channel_statistics, load_images, statistics
from sslzoo.data.arrays import read_npy, to_npy
from sslzoo.data.visible import visible
from sslzoo.views import Renderer, View, center_crop

COUNT = 6


def arrays(channels=5, dtype=np.uint16, count=COUNT, seed=0):
    """Images of several sizes whose values use the whole range of their type."""
    random, limits = np.random.default_rng(seed), np.iinfo(dtype)
    sizes = [(9 + number, 12) for number in range(count)]
    return [random.integers(limits.min, limits.max, (*size, channels), dtype, endpoint=True) for size in sizes]


def save_arrays(folder, images, classes="ab"):
    for number, image in enumerate(images):
        (folder / classes[number % len(classes)]).mkdir(parents=True, exist_ok=True)
        np.save(folder / classes[number % len(classes)] / f"{number}.npy", image)


def values(images):
    """The pixels of each image, (height, width, channels)."""
    found = []
    for _, batch in images.read(torch.arange(len(images)), 4):
        for pixels, (height, width) in zip(batch.pixels, batch.sizes.tolist(), strict=True):
            found.append(pixels[:, :height, :width].permute(1, 2, 0).numpy())
    return found


def equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def one_file(folder, name, image):
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".npy"):
        np.save(folder / name, image)
    else:
        image.save(folder / name)
    return folder


class TestArrays:
    def test_in_class_folders_in_parquet_and_in_tar_are_the_same_images(self, tmp_path):
        images = arrays()
        save_arrays(tmp_path / "folder" / "train", images, classes="a")
        nested = datasets.Dataset.from_dict({"image": images})
        nested.to_parquet(tmp_path / "nested.parquet")
        shape = datasets.Array3D((None, 12, 5), "uint16")
        datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": shape})).save_to_disk(tmp_path / "saved")
        with tarfile.open(tmp_path / "images.tar", "w") as tar:
            for number in range(COUNT):
                tar.add(tmp_path / "folder" / "train" / "a" / f"{number}.npy", f"{number}.npy")
        found = [load(tmp_path / name, channels=5) for name in ("folder", "nested.parquet", "saved", "images.tar")]
        for one in found:
            equal(values(one), images)
        assert len({one.fingerprint for one in found}) == 1

    def test_folders_are_classes_and_a_table_may_list_them(self, tmp_path):
        images = arrays()
        save_arrays(tmp_path / "train", images)
        found = load(tmp_path, channels=5)
        assert found.label_names == ["a", "b"] and found.labels.tolist() == [0] * 3 + [1] * 3
        equal(values(found), images[::2] + images[1::2])
        table = "".join(f"train/{'ab'[number % 2]}/{number}.npy,{number % 2}\n" for number in range(COUNT))
        (tmp_path / "list.csv").write_text("file,label\n" + table)
        equal(values(load(tmp_path / "list.csv", channels=5)), images)

    def test_pictures_go_before_arrays_that_lie_next_to_them(self, tmp_path):
        one_file(tmp_path, "1.npy", arrays()[0])
        assert len(load(one_file(tmp_path, "2.png", Image.new("RGB", (4, 4))))) == 1

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
    def test_values_are_kept_whatever_the_axes(self, tmp_path, dtype):
        image = arrays(dtype=np.dtype(dtype).newbyteorder("=").type)[0]
        for name, stored in (("1", image), ("2", image.transpose(2, 0, 1)), ("3", np.asfortranarray(image))):
            one_file(tmp_path, f"{name}.npy", stored.astype(dtype))
        equal(values(load(tmp_path, channels=5)), [image] * 3)
        equal(values(load(one_file(tmp_path / "grey", "1.npy", image[..., 0].astype(dtype)), channels=1)), [image[..., :1]])

    def test_last_axis_holds_the_channels_where_the_first_might_too(self, tmp_path):
        image = arrays()[0][:5]
        equal(values(load(one_file(tmp_path, "1.npy", image), channels=5)), [image])

    def test_signed_values_are_shifted_by_half_of_their_range(self, tmp_path):
        image = np.array([[[-32768, 0, 32767]]], np.int16)
        assert values(load(one_file(tmp_path, "1.npy", image), channels=3))[0].tolist() == [[[0, 32768, 65535]]]

    def test_8_bits_next_to_16_lose_nothing(self, tmp_path):
        one_file(tmp_path, "1.npy", np.full((2, 2, 5), 255, np.uint8))
        one_file(tmp_path, "2.npy", np.full((2, 2, 5), 65535, np.uint16))
        assert [image.max() for image in values(load(tmp_path, channels=5))] == [65535] * 2

    def test_16_bits_that_come_late_among_8_end_the_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sslzoo.data.load._PROBES", 1)
        one_file(tmp_path, "1.npy", np.zeros((2, 2, 5), np.uint8))
        one_file(tmp_path, "2.npy", np.zeros((2, 2, 5), np.uint16))
        expected = "the image 2.npy has 16 bits a channel, while those looked at first have 8: store all images with 16"
        with pytest.raises(ValueError, match=expected):
            load(tmp_path, channels=5)
        with pytest.raises(ValueError, match=expected):
            values(load_images(str(tmp_path), "train", channels=5, device=CPU, budget=STREAMED))

    def test_large_ones_are_reduced_without_leaving_the_range(self, tmp_path):
        image = np.zeros((64, 32, 5), np.uint16)
        image[:, 16:] = 65535
        (found,) = values(load(one_file(tmp_path, "1.npy", image), channels=5, canvas=16))
        assert found.shape == (16, 8, 5) and found[:, :3].max() == 0 and found[:, 5:].min() == 65535

    def test_damaged_ones_are_broken_images(self, tmp_path):
        save_arrays(tmp_path / "train", arrays(count=3), classes="a")
        encoded = (tmp_path / "train" / "a" / "0.npy").read_bytes()
        (tmp_path / "train" / "a" / "3.npy").write_bytes(encoded[:-1])
        (tmp_path / "train" / "a" / "4.npy").write_bytes(encoded.replace(b"(9, 12, 5)", b"(99999999,)"))
        np.save(tmp_path / "train" / "a" / "5.npy", np.array([{}, 1], object), allow_pickle=True)
        found = load(tmp_path, channels=5, broken_share=1)
        assert found.skipped == [f"train/a/{number}.npy" for number in (3, 4, 5)] and len(found) == 3

    def test_are_sound_in_many_threads_whatever_garbage_is_collected_meanwhile(self):
        class Garbage:
            def __init__(self):
                self.cycle = self

            def __del__(self):  # Python code, during which other threads may go on
                sum(range(50))

        images = [image[:2] for image in arrays()]
        files, interval, threshold = [to_npy(image) for image in images], sys.getswitchinterval(), gc.get_threshold()
        try:
            sys.setswitchinterval(1e-6)
            gc.set_threshold(50)
            with ThreadPoolExecutor(8) as threads:
                found = list(threads.map(lambda number: (Garbage(), read_npy(files[number % COUNT]))[1], range(4000)))
        finally:
            sys.setswitchinterval(interval)
            gc.set_threshold(*threshold)
        equal(found, [images[number % COUNT] for number in range(4000)])


class TestRefused:
    def test_another_number_of_channels_is_one_error_that_names_both(self, tmp_path):
        one_file(tmp_path / "array", "1.npy", arrays()[0])
        for channels in (1, 3, 4):
            expected = f"the image 1.npy is an array of 9 x 12 x 5 values, and the recipe's `channels` is {channels}"
            assert refused(tmp_path / "array", channels=channels) == expected
        one_file(tmp_path / "picture", "1.png", Image.new("RGB", (4, 4)))
        assert refused(tmp_path / "picture", channels=5) == "the image 1.png has 3 channels, and the recipe's `channels` is 5"
        (tmp_path / "tiff").mkdir()
        tifffile.imwrite(tmp_path / "tiff" / "1.tif", arrays()[0], photometric="minisblack", planarconfig="contig")
        for channels in (1, 3):
            expected = f"the image 1.tif has 5 channels, and the recipe's `channels` is {channels}"
            assert refused(tmp_path / "tiff", channels=channels) == expected
        assert "1 or 3 equal channels, and the recipe's `channels` is 5" in refused("digits", channels=5)

    def test_types_without_a_stated_black_and_white(self, tmp_path):
        one_file(tmp_path / "array", "1.npy", np.zeros((2, 2, 5), np.float32))
        assert "is an array of float32, whose black and white nothing states" in refused(tmp_path / "array", channels=5)
        datasets.Dataset.from_dict({"image": [np.zeros((2, 2, 5)).tolist()], "n": [1]}).to_parquet(tmp_path / "1.parquet")
        expected = "no column holds images; the columns are: image, n; arrays of float64 state no black and white: cast them to uint8, "
        assert refused(tmp_path / "1.parquet", channels=5).startswith(expected)

    def test_colours_of_16_bits_in_a_png_of_which_pillow_reads_8(self, tmp_path):
        encoded = io.BytesIO()
        Image.new("RGBA", (4, 4)).save(encoded, "PNG")
        deep = bytearray(encoded.getvalue())
        deep[24] = 16
        deep[29:33] = struct.pack(">I", zlib.crc32(deep[12:29]))
        (tmp_path / "1.png").write_bytes(deep)
        assert "is a PNG of 16 bits and 4 channels, of which 8 bits are read" in refused(tmp_path, channels=4)


class TestPictures:
    def test_grey_of_16_bits_keeps_them(self, tmp_path):
        grey = arrays(1)[0]
        for ending in ("png", "tif"):
            one_file(tmp_path / ending, f"1.{ending}", Image.fromarray(grey[..., 0]))
            equal(values(load(tmp_path / ending, channels=1)), [grey])

    def test_colours_become_grey_and_the_log_says_so(self, tmp_path, caplog):
        one_file(tmp_path, "1.png", Image.new("RGB", (2, 1), (100, 200, 0)))
        one_file(tmp_path, "2.png", Image.new("L", (2, 1), 77))
        assert [image.ravel().tolist() for image in values(load(tmp_path, channels=1))] == [[147] * 2, [77] * 2]
        assert "colour pictures are made grey, as channels is 1" in caplog.text

    def test_other_channels_are_taken_as_stored(self, tmp_path):
        image = arrays(4, np.uint8)[0]
        equal(values(load(one_file(tmp_path, "1.png", Image.fromarray(image, "RGBA")), channels=4)), [image])

    def test_digits_of_one_channel(self):
        grey, rgb = (load_images("digits", "test", channels=channels, device=CPU) for channels in (1, 3))
        assert grey.fingerprint == rgb.fingerprint and torch.equal(grey._pixels, rgb._pixels[:, :1])


class TestTIFF:
    def test_channels_last_first_or_as_pages(self, tmp_path):
        image = arrays()[0]
        first, last = {"photometric": "minisblack"}, {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(tmp_path / "1.tif", image, **last)
        tifffile.imwrite(tmp_path / "2.tif", image.transpose(2, 0, 1), **first, planarconfig="separate", compression="zlib")
        tifffile.imwrite(tmp_path / "3.tif", image.transpose(2, 0, 1), **first)
        tifffile.imwrite(tmp_path / "4.tif", image, **last, byteorder=">", bigtiff=True)
        equal(values(load(tmp_path, channels=5)), [image] * 4)

    def test_missing_library_is_named(self, tmp_path, monkeypatch):
        tifffile.imwrite(tmp_path / "1.tif", arrays()[0], photometric="minisblack", planarconfig="contig")
        monkeypatch.setitem(sys.modules, "tifffile", None)
        assert refused(tmp_path, channels=5) == "TIFF files of several channels need the package 'tifffile': pip install 'sslzoo[tiff]'"

    def test_damaged_file_is_a_broken_image(self, tmp_path):
        for number, image in enumerate(arrays(count=3)):
            tifffile.imwrite(tmp_path / f"{number}.tif", image, photometric="minisblack", planarconfig="contig", compression="zlib")
        (tmp_path / "3.tif").write_bytes((tmp_path / "0.tif").read_bytes()[:400])
        assert load(tmp_path, channels=5, broken_share=1).skipped == ["3.tif"]


def test_what_is_shown_of_other_channels_and_of_16_bits():
    rgb = arrays(3, np.uint8)[0]
    assert visible(rgb) is rgb
    deep = np.array([[[1000, 0, 0, 0], [3000, 0, 0, 0], [2000, 9, 9, 9]]], np.uint16)
    assert visible(deep).tolist() == [[[0] * 3, [255] * 3, [128] * 3]]
    assert visible(np.full((1, 1, 1), 7, np.uint16)).tolist() == [[[0] * 3]]


class TestStatistics:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_are_those_of_all_pixels_however_they_are_read(self, tmp_path, dtype):
        images = arrays(dtype=dtype)
        save_arrays(tmp_path / "train", images)
        pixels = np.concatenate([image.reshape(-1, 5) for image in images]).astype(np.float64) / np.iinfo(dtype).max
        found = {channel_statistics(load_images(str(tmp_path), "train", channels=5, device=CPU, budget=budget)) for budget in (2**30, 0)}
        assert len(found) == 1
        for one, expected in zip(found.pop(), (pixels.mean(axis=0), pixels.std(axis=0)), strict=True):
            np.testing.assert_allclose(one, expected, rtol=2e-6)

    def test_are_the_same_on_any_number_of_processes(self, tmp_path, monkeypatch):
        save_arrays(tmp_path / "train", arrays())
        images = load_images(str(tmp_path), "train", channels=5, device=CPU)
        alone, shares = channel_statistics(images), []
        monkeypatch.setattr(statistics, "gather_objects", lambda share: shares.append(share) or shares)
        for part in (slice(0, 4), slice(4, 6), slice(6, 6)):  # the last process has no image
            monkeypatch.setattr(statistics, "local_positions", lambda count, part=part: torch.arange(count)[part])
            found = channel_statistics(images)
        assert found == alone

    def test_channel_without_information_is_refused(self, tmp_path):
        image = arrays()[0]
        image[..., 2] = 7
        images = load(one_file(tmp_path, "1.npy", image), channels=5)
        with pytest.raises(ValueError, match="channel 3 of 5 has the same value in all images"):
            channel_statistics(images)


class TestViews:
    @pytest.mark.parametrize("size", [20, 90])  # rendered together, and one by one
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_each_channel_is_seen_as_that_of_an_rgb_image(self, size, interpolation):
        view = View(16, 2, interpolation=interpolation, blur=0.5, vertical_flip=0.5, padding=0.2)
        pixels = torch.randint(0, 256, (4, 5, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        sizes, samples = torch.tensor([[size, size - 3]] * 4), torch.arange(4)
        mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
        five = Renderer([view], 0, mean=mean, std=std)(pixels, sizes, samples, 1)
        three = Renderer([view], 0, mean=mean[1:4], std=std[1:4])(pixels[:, 1:4], sizes, samples, 1)
        for one, other in zip(five, three, strict=True):
            torch.testing.assert_close(one[:, 1:4], other)

    @pytest.mark.parametrize("size", [20, 90])
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_16_bits_are_seen_as_8_but_finer(self, size, interpolation):
        pixels = torch.randint(0, 256, (4, 5, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        deep = torch.from_numpy(pixels.numpy().astype(np.uint16) * 257)
        sizes, samples = torch.full((4, 2), size), torch.arange(4)
        level = {"mean": (0.0,) * 5, "std": (1 / 255,) * 5}
        renderer = Renderer([View(16, interpolation=interpolation, blur=0.5)], 0, **level)
        (one,), (other,) = renderer(pixels, sizes, samples, 0), renderer(deep, sizes, samples, 0)
        assert (one - other).abs().max() < (1e-3 if size == 20 else 1.01)  # images of 8 bits are rounded where they are large
        seen = [center_crop(image, sizes, 16, 12, interpolation, **level) for image in (pixels, deep)]
        torch.testing.assert_close(*seen, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("size", [20, 90])
    def test_bicubic_weights_do_not_leave_the_range(self, size):
        edges = np.kron(np.eye(2, dtype=np.uint16), np.full((1, 1, size // 2, size // 2), 65535, np.uint16))
        (view,) = Renderer([View(64, interpolation="bicubic")], 0, mean=(0.0,), std=(1.0,))(
            torch.from_numpy(edges), torch.tensor([[size, size]]), torch.arange(1), 0
        )
        assert view.min() >= 0 and view.max() <= 1 + 1e-6

    def test_less_than_a_grey_level_is_seen(self):
        deep = torch.full((1, 1, 90, 90), 1000, dtype=torch.uint16)
        (view,) = Renderer([View(16)], 0, mean=(0.0,), std=(1.0,))(deep, torch.tensor([[90, 90]]), torch.arange(1), 0)
        torch.testing.assert_close(view, torch.full((1, 1, 16, 16), 1000 / 65535))
