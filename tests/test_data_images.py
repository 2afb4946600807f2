"""A set is the same whether its images are on the device or decoded on the way, and holds no more memory than it may."""

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from sslzoo.data import Subset, load_images, memory, without_broken
from sslzoo.data.decode import decode
from sslzoo.data.decode_row import decode_row
from sslzoo.data.prefetch import prefetch
from sslzoo.errors import InputError

CPU = torch.device("cpu")
RESIDENT, STREAMED = 2**30, 0
SIZES = [(3, 5), (40, 7), (8, 8), (1, 1), (33, 70), (12, 64), (64, 12), (5, 3), (20, 20), (31, 32)]  # height, width


def picture(row, height, width):
    """Nowhere zero, so that the empty part of a canvas cannot be taken for it."""
    return np.random.RandomState(row).randint(1, 256, (height, width, 3), np.uint8)


@pytest.fixture
def written(tmp_path):
    """Writes images of the given sizes as Parquet, a broken one for None; a row's label is its row."""

    def written(sizes):
        rows = []
        for row, size in enumerate(sizes):
            stream = io.BytesIO(b"<html>")
            if size is not None:
                Image.fromarray(picture(row, *size)).save(stream, "PNG")
            rows.append({"bytes": stream.getvalue(), "path": None})
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=len(sizes)))
        table = datasets.Dataset.from_dict({"image": rows, "label": list(range(len(sizes)))}, features=features).data.table
        parquet.write_table(table, tmp_path / "train.parquet")
        return str(tmp_path / "train.parquet")

    return written


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr("sslzoo.data.load.thread_count", lambda *_: request.param)


def load(source, budget, **options):
    images = load_images(source, "train", device=CPU, budget=budget, **options)
    assert images.resident == (budget != STREAMED)
    return images


def check(batch, rows, sizes):
    """The batch holds these rows' pictures in the corners of empty canvases."""
    assert batch.pixels.dtype == torch.uint8 and batch.sizes.dtype == batch.samples.dtype == batch.labels.dtype == torch.int64
    assert batch.samples.tolist() == batch.labels.tolist() == rows
    for pixels, size, row in zip(batch.pixels, batch.sizes.tolist(), rows, strict=True):
        height, width = size
        assert (height, width) == sizes[row]
        np.testing.assert_array_equal(pixels[:, :height, :width].permute(1, 2, 0), picture(row, height, width))
        assert not pixels[:, height:].any() and not pixels[:, :, width:].any()


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_batches_are_the_rows_asked_for_in_that_order(written, budget):
    images = load(written(SIZES), budget)
    order = [torch.tensor(rows) for rows in ([3, 0, 3], [9], [1, 2, 4, 5, 6, 7, 8], [0, 1], [8, 8, 8])]
    batches = list(images.batches(order))
    assert len(images) == len(SIZES) and len(batches) == len(order)
    for rows, batch in zip(order, batches, strict=True):
        check(batch, rows.tolist(), SIZES)
    assert [images.name(position) for position in (0, 9)] == ["row 0", "row 9"]


@pytest.mark.parametrize("canvas", [None, 16, 33, 64])
def test_resident_and_streamed_sets_are_the_same(written, canvas):
    source = written(SIZES)
    resident, streamed = load(source, RESIDENT, canvas=canvas), load(source, STREAMED, canvas=canvas)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0)).remainder(10).split(7)
    for one, other in zip(resident.batches(order), streamed.batches(order), strict=True):
        for part in ("sizes", "samples", "labels"):
            assert torch.equal(getattr(one, part), getattr(other, part))
        height, width = one.sizes.amax(dim=0).tolist()
        assert torch.equal(one.pixels[:, :, :height, :width], other.pixels[:, :, :height, :width])
        for batch in (one, other):
            assert not batch.pixels[:, :, height:].any() and not batch.pixels[:, :, :, width:].any()
            assert canvas is None or max(batch.pixels.shape[2:]) <= canvas
    for part in ("fingerprint", "label_names", "skipped", "source", "split"):
        assert getattr(resident, part) == getattr(streamed, part)
    assert torch.equal(resident.labels, streamed.labels)
    assert [resident.name(position) for position in range(10)] == [streamed.name(position) for position in range(10)]


def test_canvas_reduces_larger_images_only(written):
    images = load(written(SIZES), RESIDENT, canvas=16)
    batch = next(images.batches([torch.arange(10)]))
    assert batch.sizes.tolist() == [[3, 5], [16, 3], [8, 8], [1, 1], [8, 16], [3, 16], [16, 3], [5, 3], [16, 16], [16, 16]]
    assert batch.pixels.shape == (10, 3, 16, 16)
    for position in (4, 9):
        encoded = io.BytesIO()
        Image.fromarray(picture(position, *SIZES[position])).save(encoded, "PNG")
        height, width = batch.sizes[position].tolist()
        np.testing.assert_array_equal(batch.pixels[position, :, :height, :width].permute(1, 2, 0), decode(encoded.getvalue(), 16))


def test_streamed_canvases_have_few_different_shapes(written):
    images = load(written(SIZES), STREAMED)
    shapes = {tuple(batch.pixels.shape[2:]) for batch in images.batches(torch.arange(10).split(1))}
    assert shapes == {(32, 32), (64, 32), (64, 96), (32, 64)}


class TestBudget:
    def test_is_the_decoded_size_to_the_byte(self, written):
        source, size = written([(6, 4)] * 5), 5 * 3 * 6 * 4
        assert load_images(source, "train", device=CPU, budget=size).resident
        assert not load_images(source, "train", device=CPU, budget=size - 1).resident

    def test_counts_reduced_images(self, written):
        source = written([(64, 64)] * 5)
        assert load_images(source, "train", device=CPU, canvas=8, budget=5 * 3 * 8 * 8).resident

    def test_small_set_is_resident_by_default(self, written):
        assert load_images(written(SIZES), "train", device=CPU).resident

    def test_default_is_a_quarter_of_what_is_free_here_and_in_the_container(self, monkeypatch):
        monkeypatch.setattr(memory, "_available", lambda: 800)
        monkeypatch.setattr(memory, "_container_limit", lambda: 400)
        assert memory.default_budget(CPU) == 100
        monkeypatch.setattr(memory, "_container_limit", lambda: 2**62)
        assert memory.default_budget(CPU) == 200

    def test_default_is_some_memory_and_not_all_of_it(self):
        assert 2**20 < memory.default_budget(CPU) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class TestGrowth:
    """Images larger than those whose headers were looked at."""

    SIZES = [(4, 4), (9, 3), (2, 4), (4, 4), (3, 11), (10, 2), (4, 4)]

    @pytest.fixture(autouse=True)
    def few_probes_and_small_blocks(self, monkeypatch):
        monkeypatch.setattr("sslzoo.data.load._PROBES", 2)
        monkeypatch.setattr("sslzoo.data.resident._BLOCK", 2)

    def test_larger_image_makes_the_canvas_grow(self, written):
        images = load(written(self.SIZES), RESIDENT)
        batch = next(images.batches([torch.arange(7)]))
        assert batch.pixels.shape == (7, 3, 10, 11)
        check(batch, list(range(7)), self.SIZES)

    def test_up_to_the_budget_and_then_the_set_is_streamed(self, written):
        source = written(self.SIZES)
        assert load_images(source, "train", device=CPU, budget=7 * 3 * 10 * 11).resident
        images = load_images(source, "train", device=CPU, budget=7 * 3 * 10 * 11 - 1)
        assert not images.resident and len(images) == 7 and images.skipped == []
        check(next(images.batches([torch.arange(7)])), list(range(7)), self.SIZES)

    def test_broken_images_are_not_counted_twice_when_it_falls_back(self, written):
        sizes = [(4, 4), None, (9, 9), (4, 4)]
        images = load_images(written(sizes), "train", device=CPU, budget=4 * 3 * 4 * 4)
        assert not images.resident and images.skipped == []
        check(next(images.batches([torch.arange(4)])), [0, 2, 2, 3], sizes)
        assert images.skipped == ["row 1"]

    def test_broken_rows_and_whole_broken_blocks_leave_no_gap(self, written):
        sizes = [(4, 4)] * 301
        for row in (2, 3, 9):
            sizes[row] = None
        sizes[5] = (2, 7)
        images = load(written(sizes), RESIDENT)
        rows = [row for row in range(301) if sizes[row]]
        assert len(images) == 298 and images.skipped == ["row 2", "row 3", "row 9"]
        for one, batch in zip(torch.tensor(rows).split(50), images.batches(torch.arange(298).split(50)), strict=True):
            assert batch.samples.tolist() == one.tolist()
        check(next(images.batches([torch.arange(10)])), rows[:10], sizes)

    def test_turned_png_whose_header_does_not_say_so(self, tmp_path):
        tags = Image.Exif()
        tags[0x0112] = 6
        (tmp_path / "set").mkdir()
        for name in ("0.png", "1.png"):
            Image.fromarray(picture(0, 2, 9)).save(tmp_path / "set" / name, exif=tags)
        batch = next(load(str(tmp_path / "set"), RESIDENT).batches([torch.arange(2)]))
        assert batch.sizes.tolist() == [[9, 2]] * 2
        np.testing.assert_array_equal(batch.pixels[0, :, :9, :2].permute(1, 2, 0), np.rot90(picture(0, 2, 9), -1))


@pytest.mark.usefixtures("threads")
class TestBrokenWhileStreamed:
    SIZES = [(4, 4), None, (4, 5), (6, 4), *[(4, 4)] * 292, (8, 3), None, (3, 3), None]  # the last, row 299, is followed by row 0
    STANDS_IN = {1: 2, 297: 298, 299: 0}

    def rows(self, positions):
        return [self.STANDS_IN.get(position, position) for position in positions]

    def test_place_is_taken_by_the_next_good_image_with_its_label(self, written, caplog):
        images = load(written(self.SIZES), STREAMED)
        positions = [299, 1, 0, 297, 2]
        for _ in range(2):
            check(next(images.batches([torch.tensor(positions)])), [0, 2, 0, 298, 2], self.SIZES)
            assert images.labels.tolist() == list(range(300)) and len(images) == 300
        assert images.skipped == ["row 1", "row 297", "row 299"]
        assert "training replaces a broken image by the next one" in caplog.text

    def test_the_same_image_whatever_the_order_and_the_batches(self, written):
        source = written(self.SIZES)
        for order in (torch.arange(300).split(64), torch.arange(300).flip(0).split(37), [torch.tensor([1, 1, 297, 299])] * 3):
            images = load(source, STREAMED)
            for positions, batch in zip(order, images.batches(order), strict=True):
                check(batch, self.rows(positions.tolist()), self.SIZES)

    def test_several_broken_in_a_row(self, written):
        sizes = [None, None, (2, 3), *[(4, 4)] * 296, None]
        images = load(written(sizes), STREAMED)
        check(next(images.batches([torch.tensor([299, 0, 1, 2])])), [2, 2, 2, 2], sizes)


@pytest.mark.usefixtures("threads")
class TestRead:
    """What evaluation sees: every image that can be decoded, and no other in the place of one that cannot."""

    SIZES = [(4, 4), None, (4, 5), (6, 4), *[(4, 4)] * 292, (8, 3), None, (3, 3), None]
    GOOD = [row for row in range(300) if row not in (1, 297, 299)]

    @pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
    @pytest.mark.parametrize("size", [1, 7, 300])
    def test_broken_images_are_left_out(self, written, budget, size):
        images = load(written(self.SIZES), budget)
        rows = []
        for positions, batch in images.read(torch.arange(len(images)), size):
            assert 1 <= len(positions) <= size
            check(batch, batch.samples.tolist(), self.SIZES)
            assert images.labels[positions].tolist() == batch.labels.tolist()
            assert [images.name(position) for position in positions] == [f"row {row}" for row in batch.samples]
            rows += batch.samples.tolist()
        assert rows == self.GOOD and images.skipped == ["row 1", "row 297", "row 299"]

    @pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
    def test_without_broken_images_positions_and_labels_are_those_of_a_resident_set(self, written, budget):
        images = load(written(self.SIZES), budget)
        whole = without_broken(images)
        assert whole.labels.tolist() == self.GOOD and len(whole) == 297 and whole.readable(torch.arange(297)).tolist() == list(range(297))
        assert whole.name(1) == "row 2" and whole.skipped == ["row 1", "row 297", "row 299"]
        check(next(whole.batches([torch.tensor([1, 296, 0, 295])])), [2, 298, 0, 296], self.SIZES)
        ((positions, batch),) = whole.read(torch.tensor([0, 1, 295]), 8)
        assert positions.tolist() == [0, 1, 295] and batch.samples.tolist() == [0, 2, 296]
        assert (whole is images) == (budget == RESIDENT)

    @pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
    def test_some_of_the_images(self, written, budget):
        images = load(written(self.SIZES), budget)
        some = Subset(images, (images.labels % 3 == 1).nonzero()[:, 0])
        rows = [row for row in self.GOOD if row % 3 == 1]
        assert [row for _, batch in some.read(torch.arange(len(some)), 16) for row in batch.samples.tolist()] == rows
        assert without_broken(some).labels.tolist() == rows

    def test_only_what_was_not_seen_is_decoded_to_know_which_are_broken(self, written, monkeypatch):
        images = load(written(self.SIZES), STREAMED)
        for _ in images.read(torch.arange(290), 64):
            pass
        decoded = []
        monkeypatch.setattr("sslzoo.data.streamed.decode_row", lambda *how: decoded.append(0) or decode_row(*how))
        assert images.readable(torch.arange(300)).tolist() == images.readable(torch.arange(300)).tolist() == self.GOOD
        assert len(decoded) == 10

    @pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
    def test_canvases_of_a_batch_are_bounded(self, written, monkeypatch, budget):
        sizes = [(8, 8)] * 40 + [(1, 300), (300, 1)] + [(8, 8)] * 40
        for module in ("streamed", "resident"):
            monkeypatch.setattr(f"sslzoo.data.{module}.MAX_BATCH_BYTES", 3 * 2**16)
        images = load(written(sizes), budget)
        rows = []
        for _, batch in images.read(torch.arange(82), 40):
            check(batch, batch.samples.tolist(), sizes)
            assert len(batch.samples) == 1 or batch.pixels[:, 0].numel() <= 2**16
            rows += batch.samples.tolist()
        assert rows == list(range(82))

    @pytest.mark.parametrize("how", ["close", "raise", "end"])
    def test_leaving_early_leaves_no_threads(self, written, how):
        before = set(threading.enumerate())
        images = load(written(SIZES), STREAMED)
        batches = images.read(torch.arange(10), 2)
        next(batches)
        if how == "raise":
            with pytest.raises(KeyError):
                batches.throw(KeyError)
        elif how == "close":
            batches.close()
        else:
            assert len(list(batches)) == 4
        assert set(threading.enumerate()) <= before

    def test_too_many_broken_images_surface(self, written):
        images = load(written([(2, 2)] * 8 + [None] * 2), STREAMED)
        with pytest.raises(InputError, match="cannot be read"):
            list(images.read(torch.arange(10), 4))



@pytest.mark.parametrize("budget, module, block", [(RESIDENT, "resident", 64), (STREAMED, "streamed", 1)])
@pytest.mark.parametrize("side, several", [(32, False), (64, True)])
def test_a_second_thread_decodes_where_the_images_are_worth_it(written, monkeypatch, budget, module, block, side, several):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    threads, later = set(), threading.Event()

    def spied(rows, row, *how):
        threads.add(threading.get_ident())
        if row >= block:  # row 0 is part of another thread's work
            later.set()
        assert row > 0 or not several or later.wait(60)
        return decode_row(rows, row, *how)

    monkeypatch.setattr(f"sslzoo.data.{module}.decode_row", spied)
    without_broken(load(written([(side, side)] * 130), budget))
    assert (len(threads) > 1) == several


@pytest.mark.usefixtures("threads")
class TestStreaming:
    def test_few_batches_are_begun_ahead_of_their_use(self, written):
        images = load(written(SIZES), STREAMED)
        taken = []

        def order():
            for number in range(20):
                taken.append(number)
                yield torch.tensor([number % 10, (number + 1) % 10])

        most = 0
        for done, batch in enumerate(images.batches(order()), 1):
            most = max(most, len(taken) - done)
            assert batch.samples[0] == (done - 1) % 10
        assert done == 20 and most == 2, "three batches at once, the one in use among them"

    def test_nothing_is_decoded_before_it_is_asked_for(self, written, monkeypatch):
        images = load(written(SIZES), STREAMED)
        monkeypatch.setattr("sslzoo.data.streamed.decode_row", lambda *_: pytest.fail("decoded"))
        images.batches([torch.arange(10)])

    def test_any_number_of_threads_gives_the_same(self, written):
        images = load(written(SIZES), STREAMED)
        order = torch.arange(40).remainder(10).split(20)
        for positions, batch in zip(order, images.batches(order), strict=True):
            check(batch, positions.tolist(), SIZES)

    @pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("a bug")])
    def test_error_surfaces_at_its_batch(self, written, monkeypatch, error):
        images = load(written([(2, 2)] * 9 + [(7, 7)]), STREAMED)

        def fail(*how):
            image = decode_row(*how)
            if image.shape[0] == 7:
                raise error
            return image

        monkeypatch.setattr("sslzoo.data.streamed.decode_row", fail)
        batches = images.batches([torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([8, 9]), torch.tensor([3])])
        assert [next(batches).samples.tolist() for _ in range(2)] == [[0, 1], [2]]
        with pytest.raises(type(error), match=str(error)):
            next(batches)

    def test_too_many_broken_images_surface_at_the_consumer(self, written):
        images = load(written([(2, 2)] * 8 + [None] * 2), STREAMED)
        batches = images.batches([torch.arange(4), torch.arange(4, 8), torch.arange(8, 10)])
        assert next(batches).samples.tolist() == [0, 1, 2, 3] and next(batches).samples.tolist() == [4, 5, 6, 7]
        with pytest.raises(InputError, match="cannot be read"):
            next(batches)

    @pytest.mark.parametrize("how", ["close", "break", "raise", "not begun"])
    def test_leaving_early_neither_hangs_nor_leaves_threads(self, written, how):
        images = load(written(SIZES), STREAMED)
        before = set(threading.enumerate())
        taken = []

        def order():
            for number in range(10_000):
                taken.append(number)
                yield torch.arange(10)

        def leave():
            batches = images.batches(order())
            if how == "close":
                next(batches)
                batches.close()
            elif how == "break":
                for _ in batches:
                    break
            elif how == "raise":
                with pytest.raises(KeyError):
                    for _ in batches:
                        raise KeyError

        worker = threading.Thread(target=leave, daemon=True)
        worker.start()
        worker.join(600)
        assert not worker.is_alive(), "it hangs"
        assert len(taken) <= 3
        assert set(threading.enumerate()) <= before

    def test_two_readers_at_once(self, written):
        images = load(written(SIZES), STREAMED)
        order = torch.arange(40).remainder(10).split(6)
        for positions, one, other in zip(order, images.batches(order), images.batches(order), strict=True):
            check(one, positions.tolist(), SIZES)
            check(other, positions.tolist(), SIZES)


class TestAhead:
    def test_results_come_in_order_although_the_first_takes_longest(self):
        later = threading.Event()

        def work(item):
            if item == 0:
                assert later.wait(600)
            later.set()
            return item * item

        with ThreadPoolExecutor(4) as pool:
            assert list(prefetch(pool, work, range(9), 3)) == [item * item for item in range(9)]

    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_never_more_are_begun_than_allowed(self, most):
        begun, handed_out, waiting = [], 0, 0
        with ThreadPoolExecutor(8) as pool:
            for _ in prefetch(pool, begun.append, iter(range(30)), most):
                waiting = max(waiting, len(begun) - handed_out)
                handed_out += 1
        assert len(begun) == handed_out == 30 and waiting <= most

    def test_fewer_items_than_allowed(self):
        with ThreadPoolExecutor(2) as pool:
            assert list(prefetch(pool, str, [1], 5)) == ["1"]
            assert list(prefetch(pool, str, [], 5)) == []

    def test_what_has_not_begun_when_it_is_left_never_begins(self):
        held, begun = threading.Event(), []

        def work(item):
            begun.append(item)
            assert item == 0 or held.wait(600)

        with ThreadPoolExecutor(1) as pool:
            results = prefetch(pool, work, range(100), 5)
            next(results)
            results.close()
            held.set()
        assert len(begun) <= 2

    def test_error_of_the_items_surfaces(self):
        def items():
            yield 1
            raise KeyError("the order itself")

        with ThreadPoolExecutor(2) as pool, pytest.raises(KeyError, match="the order itself"):
            list(prefetch(pool, str, items(), 5))
