"""What lies in a folder is what is read: splits, classes and images by one listing, and whatever is left out is said."""

import os
import shutil
import socket

import pytest
import torch
from data_sets import CPU, RESIDENT, STREAMED, classes, load, names, refused, save

from sslzoo.data import load_images
from sslzoo.data.listing import image_endings


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pictures"


def said(caplog):
    """The one line that says what was found."""
    lines = [record.getMessage() for record in caplog.records if record.name == "sslzoo.data.source"]
    assert len(lines) == 1 and lines[0].isprintable()
    return lines[0]


class TestSplits:
    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("Training", "Testing"), ("Train", "Test"), ("TRAIN", "TEST"), ("seg_train", "seg_test"), ("train", "eval"),
            ("train2017", "test2017"), ("train_images", "test_images"), ("my-train", "my-test"), ("train", "evaluation"),
            ("train.X1", "test.X"), ("seg_train/seg_train", "seg_test/seg_test"), ("data/train", "data/test"),
            ("train/images", "test/images"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("below", ["ant/{}.png bee/{}.png", "{}.png {}{}.png"])
    def test_two_folders_are_two_splits_by_the_keywords_of_datasets(self, folder, train, test, below):
        for split, number in ((train, "0"), (test, "1")):
            save(folder, *(f"{split}/{name.replace('{}', number)}" for name in below.split()))
        for split, own, number in (("train", train, "0"), ("test", test, "1")):
            images = load(folder, split)
            assert names(images) == sorted(f"{own}/{name.replace('{}', number)}" for name in below.split())
            assert images.label_names == (["ant", "bee"] if "ant" in below else None)
            assert len(images.splits) == 2

    def test_a_name_means_its_own_folder_first_and_then_any_of_its_keyword(self, folder):
        save(folder, "train/0.png", "val/1.png", "Dev/2.png")
        assert names(load(folder, "val")) == ["val/1.png"]
        assert names(load(folder, "dev")) == ["Dev/2.png"]
        assert names(load(folder, "validation")) == ["Dev/2.png", "val/1.png"]
        assert refused(folder, "test").startswith("unknown split 'test': ")

    def test_shards_of_a_split_are_one(self, folder):
        save(folder, "train.X1/ant/0.png", "train.X2/bee/1.png", "val.X/ant/2.png", "val.X/bee/3.png")
        assert classes(load(folder)) == {"ant": ["train.X1/ant/0.png"], "bee": ["train.X2/bee/1.png"]}
        assert classes(load(folder, "val")) == {"ant": ["val.X/ant/2.png"], "bee": ["val.X/bee/3.png"]}

    @pytest.mark.parametrize("shards", [("train-1", "train-2"), ("train.X1", "train.X2"), ("Train 1", "Train 2")])
    def test_shards_of_the_only_split_are_no_classes(self, folder, shards):
        save(folder, *(f"{shard}/{name}/{shard}.png" for shard in shards for name in ("ant", "bee")))
        assert load(folder).labels.tolist() == [0, 1, 0, 1] and load(folder).label_names == ["ant", "bee"]

    def test_folders_of_a_split_that_may_be_classes_are_told(self, folder, caplog):
        save(folder, "cats_train/0.png", "cats_test/1.png", "dogs_train/2.png", "dogs_test/3.png")
        assert names(load(folder)) == ["cats_train/0.png", "dogs_train/2.png"]
        assert said(caplog).endswith("; no classes, as cats_train, dogs_train are read as one split")

    @pytest.mark.parametrize("below", ["", "/good"])
    def test_train_and_test_in_every_class_are_never_one_split(self, folder, below):
        save(folder, *(f"{name}/{split}{below}/0.png" for name in ("ant", "bee") for split in ("train", "test")))
        for options in ({}, {"label_column": "label"}):
            assert refused(folder, **options).startswith("splits (test, train) lie in 'ant', not at the top: ")
        assert len(load(folder / "ant")) == 1

    @pytest.mark.parametrize("other", ["unlabeled", "extra", "more"])
    def test_folder_beside_a_split_is_a_split_of_its_own(self, folder, other, caplog):
        save(folder, "train/ant/0.png", "train/bee/1.png", f"{other}/2.png")
        assert classes(load(folder)) == {"ant": ["train/ant/0.png"], "bee": ["train/bee/1.png"]}
        assert f"splits: {', '.join(sorted(['train', other]))}" in said(caplog)
        images = load(folder, other)
        assert names(images) == [f"{other}/2.png"] and images.labels is None

    def test_folder_beside_seg_train_and_seg_test_is_a_split_of_its_own(self, folder):
        save(folder, "seg_train/ant/0.png", "seg_train/bee/1.png", "seg_test/ant/2.png", "seg_test/bee/3.png", "seg_pred/4.png")
        assert len(load(folder)) == 2 and names(load(folder, "seg_pred")) == ["seg_pred/4.png"]

    @pytest.mark.parametrize(
        "pair", [("steam_train", "electric_train"), ("test tube", "flask"), ("passenger_train", "test car"), ("extra", "plain")]
    )
    def test_classes_whose_names_hold_a_keyword_are_classes(self, folder, pair):
        save(folder, *(f"{name}/0.png" for name in pair))
        assert load(folder).label_names == sorted(pair)

    @pytest.mark.parametrize("inside", ["train", "test", "val", "unlabeled"])
    def test_photos_beside_a_folder_called_like_a_split_are_all_read(self, folder, inside):
        save(folder, *(f"{number}.png" for number in range(5)), f"{inside}/5.png", f"{inside}/6.png")
        images = load(folder)
        assert len(images) == 7 and images.labels is None

    @pytest.mark.parametrize("splits", [("train", "test"), ("seg_train", "seg_test"), ("train/ant", "train/bee")])
    def test_photos_beside_splits_are_an_error_that_names_them(self, folder, splits):
        save(folder, "cover.png", *(f"{split}/0.png" for split in splits))
        for split in ("train", "test"):
            message = refused(folder, split)
            assert message.startswith("1 image beside the splits ") and ": cover.png; move or remove" in message


class TestClasses:
    def test_stray_image_has_no_label_and_is_named(self, folder, caplog):
        save(folder, "ant/0.png", "ant/1.png", "bee/2.png", "bee/3.png", "cover.png")
        images = load(folder)
        assert names(images)[0] == "cover.png" and images.labels.tolist() == [-1, 0, 0, 1, 1] and images.label_names == ["ant", "bee"]
        assert said(caplog).endswith(": 5 images in 2 classes; 1 image without a label: cover.png")

    def test_class_a_level_deeper_is_a_class_and_named(self, folder, caplog):
        save(folder, "ant/0.png", "ant/1.png", "bee/more/2.png", "cow/3.png")
        assert classes(load(folder)) == {"ant": ["ant/0.png", "ant/1.png"], "bee": ["bee/more/2.png"], "cow": ["cow/3.png"]}
        assert "1 image deeper or higher than the others: bee/more/2.png" in said(caplog)

    @pytest.mark.parametrize("number", [2, 5])
    def test_one_of_two_classes_a_level_deeper(self, folder, number):
        save(folder, *(f"ant/{i}.png" for i in range(number)), *(f"bee/more/{i}.png" for i in range(number)))
        assert load(folder).labels.tolist() == [0] * number + [1] * number

    def test_few_images_of_a_class_deeper_down(self, folder, caplog):
        save(folder, *(f"{name}/{number}.png" for name in ("ant", "bee") for number in range(4)), "bee/old/8.png")
        assert load(folder).labels.tolist() == [0] * 4 + [1] * 5
        assert "1 image deeper or higher than the others: bee/old/8.png" in said(caplog)

    @pytest.mark.parametrize("above", ["ant/images", "images/ant", "set/images/ant"])
    def test_folders_that_hold_everything_are_no_classes(self, folder, above):
        save(folder, f"{above}/0.png", f"{above.replace('ant', 'bee')}/1.png")
        assert load(folder).label_names == ["ant", "bee"]

    @pytest.mark.parametrize(
        "album",
        [
            ["2023/05/0.png", "2023/06/1.png", "2024/05/2.png"],
            ["2023/0.png", "2024/1.png"],
            ["2023-05/0.png", "2023-06/1.png"],
            ["2023/05/0.png", "2023/06/1.png"],
            ["2023/05 Rome/0.png", "2023/6/1.png"],
            ["2023-05-01 Rome/0.png", "2023-06-02 Paris/1.png"],
            ["Rome/0.png", "2023/05/1.png", "2023/06/2.png", "3.png"],
            ["0.png", "Rome/1.png", "Paris/2.png"],
            ["Art/Clock/0.png", "Art/Bike/1.png", "Photo/Clock/2.png", "Photo/Bike/3.png"],
        ],
    )
    def test_album_has_no_classes_and_that_is_said(self, folder, album, caplog):
        save(folder, *album)
        images = load(folder)
        assert sorted(names(images)) == sorted(album) and images.labels is None and images.label_names is None
        assert "no classes, as " in said(caplog) and caplog.records[-1].levelname == "WARNING"

    def test_months_of_a_year(self, tmp_path):
        save(tmp_path / "2023", "01/0.png", "02/1.png")
        save(tmp_path / "digits", "01/0.png", "02/1.png")
        assert load(tmp_path / "2023").labels is None and load(tmp_path / "digits").label_names == ["01", "02"]

    def test_innermost_folders_are_the_classes_where_they_are_asked_for(self, folder):
        save(folder, "Art/Clock/0.png", "Art/Bike/1.png", "Photo/Clock/2.png", "Photo/Bike/3.png")
        images = load(folder, label_column="label")
        assert classes(images) == {"Bike": ["Art/Bike/1.png", "Photo/Bike/3.png"], "Clock": ["Art/Clock/0.png", "Photo/Clock/2.png"]}

    def test_one_class_is_none_and_said(self, folder, caplog):
        save(folder, "ant/0.png", "ant/1.png")
        assert load(folder).labels is None
        assert said(caplog).endswith("2 images; no classes, as 'ant' is the only folder")

    def test_class_folder_without_images_is_no_class_and_named(self, folder, caplog):
        save(folder, "ant/0.png", "cow/1.png")
        (folder / "bee").mkdir()
        (folder / "bee" / "0.heic").write_bytes(b"of a telephone")
        images = load(folder)
        assert images.label_names == ["ant", "cow"] and images.labels.tolist() == [0, 1]
        assert said(caplog).endswith("2 images in 2 classes; 1 folder without images, so no class: bee; 1 file not read: .heic 1")

    def test_numbers_are_in_the_order_of_texts(self, folder):
        save(folder, *(f"{name}/0.png" for name in range(11)))
        assert load(folder).label_names == ["0", "1", "10", *map(str, range(2, 10))]

    def test_folder_that_holds_one_splits_images_is_no_class(self, folder, caplog):
        save(folder, "train/ant/images/0.png", "train/bee/images/1.png", "val/images/2.png", "val/images/3.png", "test/some/4.png")
        assert load(folder).label_names == ["ant", "bee"]
        for split, holder in (("val", "images"), ("test", "some")):
            caplog.clear()
            assert load(folder, split).labels is None and f"no classes, as '{holder}' is the only folder" in said(caplog)

    def test_one_folder_in_each_split_is_no_class(self, folder):
        save(folder, "train/train_images/0.png", "test/test_images/1.png")
        assert load(folder).labels is None and load(folder, "test").labels is None

    def test_train_and_test_have_one_numbering(self, folder):
        save(folder, "Training/bee/0.png", "Training/cow/1.png", "Testing/ant/2.png", "Testing/cow/3.png")
        assert load(folder).labels.tolist() == [1, 2] and load(folder, "test").labels.tolist() == [0, 2]


class TestFiles:
    @pytest.mark.parametrize("ending", sorted(image_endings()))
    def test_every_ending_that_the_decoder_reads_is_an_image(self, folder, ending):
        save(folder, "ant/0.jpg", "ant/1.jpg", f"bee/0{ending}", f"bee/1{ending.upper()}")
        assert load(folder).labels.tolist() == [0, 0, 1, 1]

    def test_files_that_are_not_read_are_counted_by_ending(self, folder, caplog):
        save(folder, *(f"{number}.jpg" for number in range(8)))
        for name in (*(f"{number}.HEIC" for number in range(8)), "notes.txt", "README"):
            (folder / name).write_bytes(b"something")
        assert len(load(folder)) == 8
        assert said(caplog).endswith("8 images; 10 files not read: .heic 8, without an ending 1, .txt 1")
        assert caplog.records[-1].levelname == "WARNING"

    def test_where_nothing_is_left_out_nothing_is_warned_of(self, folder, caplog):
        save(folder, "ant/0.png", "bee/1.png")
        with caplog.at_level("INFO"):
            load(folder)
        assert said(caplog) == f"{folder} (train): 2 images in 2 classes" and caplog.records[-1].levelname == "INFO"

    def test_hidden_files_and_folders_are_left_out_and_counted(self, folder, caplog):
        hidden = ["__MACOSX/ant/0.png", ".ipynb_checkpoints/1.png", "ant/._2.png", "ant/.3.png", "bee/@eaDir/4.png", "lost+found/5.png"]
        save(folder, "ant/0.png", "bee/1.png", *hidden)
        (folder / ".DS_Store").write_bytes(b"\0")
        assert names(load(folder)) == ["ant/0.png", "bee/1.png"]
        assert said(caplog).endswith("; 7 hidden left out")

    def test_folder_itself_may_be_hidden(self, tmp_path):
        save(tmp_path / ".cache" / "__set", "0.png")
        assert len(load(tmp_path / ".cache" / "__set")) == 1

    def test_metadata_that_is_not_asked_for_is_ignored(self, folder):
        save(folder, *(f"{number}.png" for number in range(6)))
        for content in ("file_name\n0.png\n1.png\n2.png\n3.png\n", "a,b\n1,2\n", "file_name,x\ngone.png,1\n", "", "\xff"):
            (folder / "metadata.csv").write_bytes(content.encode("latin-1"))
            images = load(folder)
            assert len(images) == 6 and images.labels is None

    def test_own_output_does_not_hide_the_photos(self, folder):
        save(folder, "0.png", "1.png")
        (folder / "features.parquet").write_bytes(b"PAR1")
        assert names(load(folder)) == ["0.png", "1.png"]

    @pytest.mark.parametrize(
        "name", ["$HOME", "a::b", "a*b", "[0-9]", "a?b", "two\nlines", "tab\t",
                 " ", "'\"", "%41", "~", "#x", "{a,b}", "ünïcode 图", "x" * 200]
    )  # fmt: skip
    def test_any_name_of_a_file_and_of_folders(self, tmp_path, name):
        folder = tmp_path / name
        save(folder, f"{name}/{name}.png", "other/1.png")
        for source in (folder, f"{folder}/"):
            images = load(source)
            assert sorted(names(images)) == sorted([f"{name}/{name}.png", "other/1.png"]) and images.skipped == []
            assert images.label_names == sorted([name, "other"])

    def test_name_that_is_no_utf_8(self, folder):
        save(folder, "0.png", "1.png")
        place = os.fsencode(folder)
        os.rename(place + b"/1.png", place + b"/caf\xe9.png")
        images = load(folder)
        assert names(images) == ["0.png", r"caf\xe9.png"] and images.skipped == []

    @pytest.mark.parametrize("kind", ["empty", "link to nowhere", "link to itself", "pipe", "socket", "text", "not to be read"])
    def test_one_broken_entry_is_named_and_refuses_nothing(self, folder, kind, monkeypatch, caplog):
        save(folder, *(f"{name}/{number}.png" for name in ("ant", "bee") for number in range(10)))
        broken = folder / "bee" / "broken.png"
        if kind == "empty":
            broken.touch()
        elif kind == "link to nowhere":
            broken.symlink_to("gone.png")
        elif kind == "link to itself":
            broken.symlink_to("broken.png")
        elif kind == "pipe":
            os.mkfifo(broken)
        elif kind == "socket":
            monkeypatch.chdir(folder)
            with socket.socket(socket.AF_UNIX) as opened:
                opened.bind("bee/broken.png")
        elif kind == "text":
            broken.write_text("<html>")
        else:
            save(folder, "bee/broken.png")
            monkeypatch.setattr("builtins.open", _denied(str(broken)))
        for budget in (RESIDENT, STREAMED):
            images = load_images(str(folder), "train", device=CPU, budget=budget)
            list(images.batches(torch.arange(len(images)).split(8)))
            assert images.skipped == ["bee/broken.png"] and len(images) == (20 if images.resident else 21)
        assert "left out bee/broken.png: " in caplog.text

    def test_folder_that_cannot_be_opened_is_named(self, folder, monkeypatch, caplog):
        save(folder, "ant/0.png", "bee/1.png", "cow/2.png")
        scandir = os.scandir

        def denied(place):
            if str(place).endswith("cow"):
                raise PermissionError(13, "Permission denied")
            return scandir(place)

        monkeypatch.setattr("os.scandir", denied)
        assert load(folder).label_names == ["ant", "bee"]
        assert said(caplog).endswith("; 1 folder not opened: cow")
        monkeypatch.setattr("os.scandir", lambda place: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert refused(folder) == f"cannot open the folder '{folder}': Permission denied"


def _denied(name):
    really = open

    def denied(file, *arguments, **options):
        if str(file) == name:
            raise PermissionError(13, "Permission denied")
        return really(file, *arguments, **options)

    return denied


class TestLinks:
    def test_class_folders_that_are_links(self, folder, tmp_path):
        save(tmp_path / "all", "ant/0.png", "bee/1.png", "cow/2.png")
        for name in ("ant", "cow"):
            (folder / "train").mkdir(parents=True, exist_ok=True)
            (folder / "train" / name).symlink_to(tmp_path / "all" / name)
        (folder / "val").symlink_to(tmp_path / "all")
        images = load(folder)
        assert classes(images) == {"ant": ["train/ant/0.png"], "cow": ["train/cow/2.png"]} and images.skipped == []
        assert len(load(folder, "val")) == 3

    def test_files_that_are_links_as_in_a_snapshot_of_the_hub(self, tmp_path):
        save(tmp_path / "blobs", "a", "b")
        snapshot = tmp_path / "snapshots" / "0123"
        for name, blob in (("train/ant/0.png", "a"), ("train/bee/1.png", "b")):
            (snapshot / name).parent.mkdir(parents=True)
            (snapshot / name).symlink_to(os.path.relpath(tmp_path / "blobs" / blob, (snapshot / name).parent))
        images = load(snapshot)
        assert images.labels.tolist() == [0, 1] and images.skipped == []

    def test_circles_end(self, folder, caplog):
        save(folder, "ant/0.png", "bee/1.png")
        (folder / "ant" / "up").symlink_to(folder)
        (folder / "bee" / "self").symlink_to(".")
        images = load(folder)
        assert names(images) == ["ant/0.png", "bee/1.png"]
        assert "; 2 links not followed, back to what is read already: ant/up, bee/self" in said(caplog)

    def test_folders_that_link_to_one_another_are_not_read_for_ever(self, folder):
        number = 12
        save(folder, *(f"{name:02}/0.png" for name in range(number)))
        for name in range(number):
            for other in range(number):
                if name != other:
                    (folder / f"{name:02}" / f"to{other:02}").symlink_to(folder / f"{other:02}")
        assert number <= len(load(folder)) <= number**3

    def test_image_that_is_there_twice_is_counted(self, folder, caplog):
        save(folder, "ant/0.png", "bee/1.png")
        (folder / "bee" / "2.png").symlink_to(folder / "ant" / "0.png")
        assert len(load(folder)) == 3
        assert said(caplog).endswith("; 1 image there more than once, by links")

    def test_folder_called_through_a_link_relative_or_with_a_slash(self, folder, tmp_path, monkeypatch):
        save(folder, "ant/0.png", "bee/1.png")
        (tmp_path / "a link").symlink_to(folder)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        sources = (folder, "a link", "a link/", "./pictures/", "pictures", "~/a link", "pictures/../pictures")
        assert len({load(source).fingerprint for source in sources}) == 1

    def test_images_are_found_after_the_program_went_elsewhere(self, folder, tmp_path, monkeypatch):
        save(folder, "0.png", "1.png")
        monkeypatch.chdir(tmp_path)
        images = load_images("pictures", "train", device=CPU, budget=STREAMED)
        monkeypatch.chdir("/")
        assert len(next(images.batches([torch.arange(2)])).samples) == 2


class TestMetadata:
    @pytest.fixture
    def photos(self, folder):
        save(folder, *(f"{number}.png" for number in range(6)))
        return folder

    def test_texts_are_classes_where_the_column_is_named(self, photos, caplog):
        (photos / "metadata.csv").write_text("file_name,kind,note\n3.png,cat,\n0.png,dog,\n5.png,cat,\n1.png,emu,x\n")
        images = load(photos, label_column="kind")
        assert classes(images) == {"cat": ["3.png", "5.png"], "dog": ["0.png"], "emu": ["1.png"]}
        assert "2 images not in metadata.csv, left out: 2.png, 4.png" in said(caplog)

    def test_column_that_is_not_there(self, photos):
        (photos / "metadata.jsonl").write_text('{"file_name": "0.png", "kind": "cat"}\n')
        assert refused(photos, label_column="knid") == "unknown label column 'knid': did you mean 'kind'?"

    def test_splits_have_one_numbering_and_their_own_rows(self, folder):
        save(folder, "train/0.png", "train/1.png", "test/2.png")
        (folder / "metadata.csv").write_text("file_name,kind\ntrain/0.png,cow\ntest/2.png,ant\ntrain/1.png,bee\n")
        assert classes(load(folder, label_column="kind")) == {"cow": ["train/0.png"], "bee": ["train/1.png"]}
        assert load(folder, "test", label_column="kind").labels.tolist() == [0]

    def test_metadata_in_the_folder_of_a_split(self, folder):
        save(folder, "train/0.png", "train/1.png", "test/2.png")
        (folder / "train" / "metadata.csv").write_text("file_name,kind\n0.png,cow\n1.png,bee\n")
        assert classes(load(folder, label_column="kind")) == {"bee": ["train/1.png"], "cow": ["train/0.png"]}

    def test_missing_file_is_a_broken_image(self, photos):
        (photos / "metadata.csv").write_text("file_name,kind\n0.png,1\ngone.png,2\n")
        images = load(photos, label_column="kind")
        assert [images.label_names[label] for label in images.labels.tolist()] == ["1"] and images.skipped == ["gone.png"]


def test_copy_elsewhere_has_the_same_fingerprint_and_a_change_another(folder, tmp_path):
    save(folder, "ant/0.png", "bee/1.png")
    first = load(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy" / "of it")
    os.utime(tmp_path / "copy" / "of it" / "ant" / "0.png", (1, 1))
    assert load(tmp_path / "copy" / "of it").fingerprint == first
    save(folder, "ant/2.png")
    assert load(folder).fingerprint != first
