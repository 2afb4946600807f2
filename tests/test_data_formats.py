"""What the field stores images in is read: Parquet in any layout, `save_to_disk`, tar and zip archives, tables of paths."""

import io
import json
import os
import tarfile
import zipfile

import datasets
import pytest
from data_sets import classes, load, names, png, refused, shades
from pyarrow import parquet


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def table(*shades_):
    rows = {"image": [{"bytes": png(shade), "path": None} for shade in shades_], "label": [shade % 2 for shade in shades_]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])))


class TestParquet:
    def write(self, folder, files):
        for name, shade in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table(shade).data.table, folder / name)

    @pytest.mark.parametrize(
        "layout",
        [
            {"default/train/0000.parquet": 1, "default/train/0001.parquet": 2, "default/test/0000.parquet": 3},
            {"train/a.parquet": 1, "train/b.parquet": 2, "test/a.parquet": 3},
            {"data/train-00000-of-00002.parquet": 1, "data/train-00001-of-00002.parquet": 2, "data/test-00000-of-00001.parquet": 3},
            {"mnist-train-0.parquet": 1, "mnist-train-1.parquet": 2, "mnist-test.parquet": 3},
            {"Train_1.parquet": 1, "Train_2.parquet": 2, "Testing.parquet": 3},
            {"default/partial-train/0000.parquet": 1, "default/partial-train/0001.parquet": 2, "default/partial-test/0000.parquet": 3},
            {"train/part=1/x.parquet": 1, "train/part=2/x.parquet": 2, "eval/x.parquet": 3},
            {"train.parquet": [1, 2], "test.parquet": 3, "old/train.parquet": 9},
        ],
    )
    def test_splits_are_found_in_names_of_files_and_folders(self, tmp_path, layout):
        for name, shade in layout.items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            table(*(shade if isinstance(shade, list) else [shade])).to_parquet(tmp_path / "set" / name)
        assert shades(load(tmp_path / "set")) == [1, 2] and shades(load(tmp_path / "set", "test")) == [3]

    def test_split_without_a_keyword_has_the_name_of_its_files(self, tmp_path):
        self.write(tmp_path / "set", {"train-00000-of-00001.parquet": 1, "unlabeled-00000-of-00001.parquet": 2, "unsupervised.parquet": 3})
        assert [shades(load(tmp_path / "set", split)) for split in ("train", "unlabeled", "unsupervised")] == [[1], [2], [3]]

    @pytest.mark.parametrize("name", ["photos.parquet", "0000.parquet", "my set (1).parquet", "unlabeled-00000-of-00001.parquet"])
    def test_single_file_is_train(self, tmp_path, name):
        self.write(tmp_path / "set", {name: 7})
        assert shades(load(tmp_path / "set" / name)) == shades(load(tmp_path / "set")) == [7]

    def test_several_configurations_want_a_choice(self, tmp_path):
        self.write(tmp_path / "set", {"en/train/0.parquet": 1, "fr/train/0.parquet": 2})
        assert refused(tmp_path / "set") == "the split 'train' is in several folders, 'en', 'fr': give one of them as the data set"
        assert shades(load(tmp_path / "set" / "fr")) == [2]

    @pytest.mark.parametrize("name", ["$HOME", "a*b", "[0-9]", "a?b", "a::b", "two\nlines", "{a,b}", "%41", "#x", "ünïcode 图", "a\\b"])
    def test_any_name(self, tmp_path, name):
        self.write(tmp_path / name, {f"{name}-train.parquet": 5})
        assert shades(load(tmp_path / name)) == [5]

    def test_features_of_an_earlier_run_are_no_images(self, tmp_path, caplog):
        self.write(tmp_path / "set", {"photos.parquet": 5})
        features = datasets.Dataset.from_dict({"row": [0], "name": ["row 0"], "feature": [[0.5]]})
        features.to_parquet(tmp_path / "set" / "features.parquet")
        assert shades(load(tmp_path / "set")) == [5] and "no images, not read: features.parquet" in caplog.text
        assert "no column holds images" in refused(tmp_path / "set" / "features.parquet")

    def test_damaged_and_strange_files_are_named_and_refuse_nothing(self, tmp_path, caplog):
        self.write(tmp_path / "set", {"a.parquet": 5, "c.parquet": 6})
        (tmp_path / "set" / "b.parquet").write_bytes(b"PAR1 and no more")
        datasets.Dataset.from_dict({"text": ["x"]}).to_parquet(tmp_path / "set" / "d.parquet")
        assert shades(load(tmp_path / "set")) == [5, 6]
        assert "; no images, not read: d.parquet; damaged, not read: b.parquet" in caplog.text
        assert refused(tmp_path / "set" / "d.parquet") == "no column holds images; the columns are: text"
        assert refused(tmp_path / "set" / "b.parquet").startswith("cannot load the data set ")

    def test_column_that_tells_splits_apart_is_said_not_to_be_looked_at(self, tmp_path, caplog):
        table(1, 2).add_column("split", ["train", "test"]).to_parquet(tmp_path / "train.parquet")
        assert len(load(tmp_path / "train.parquet")) == 2
        assert "; column 'split' is not used, all rows are read: test, train" in caplog.text

    def test_pipe_is_not_waited_for(self, tmp_path, caplog):
        self.write(tmp_path / "set", {"train-0.parquet": 1})
        os.mkfifo(tmp_path / "set" / "train-1.parquet")
        (tmp_path / "set" / "train-2.parquet").symlink_to("gone")
        assert shades(load(tmp_path / "set")) == [1]
        assert "not read, as they are no files: train-1.parquet, train-2.parquet" in caplog.text
        assert refused(tmp_path / "set" / "train-1.parquet") == f"'{tmp_path}/set/train-1.parquet' is no file"


class TestSaved:
    def test_data_set_and_data_sets(self, tmp_path):
        table(1, 2).save_to_disk(tmp_path / "one")
        datasets.DatasetDict(train=table(3, 4), test=table(5)).save_to_disk(tmp_path / "both")
        assert shades(load(tmp_path / "one")) == [1, 2] and load(tmp_path / "one").labels.tolist() == [1, 0]
        assert shades(load(tmp_path / "both")) == [3, 4] and shades(load(tmp_path / "both", "test")) == [5]
        assert refused(tmp_path / "both", "val").startswith("unknown split 'val': ")

    def test_one_folder_a_split(self, tmp_path):
        for name, shade in (("train", 1), ("validation", 2)):
            table(shade).save_to_disk(tmp_path / "set" / name)
        assert shades(load(tmp_path / "set")) == [1] and shades(load(tmp_path / "set", "val")) == [2]

    def test_selected_rows_alone(self, tmp_path):
        table(1, 2, 3).select([2, 0]).save_to_disk(tmp_path / "set")
        assert shades(load(tmp_path / "set")) == [3, 1]

    def test_damage_is_one_line(self, tmp_path):
        table(1).save_to_disk(tmp_path / "set")
        (tmp_path / "set" / "state.json").write_text("{")
        assert refused(tmp_path / "set").startswith(f"cannot load the data set '{tmp_path}/set': ")


def pack(file, content):
    """A tar or zip file with the content, bytes or text, of each of its paths."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {name: value.encode() if isinstance(value, str) else value for name, value in content.items()}
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, value in content.items():
                opened.writestr(name, value)
    else:
        with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as opened:
            for name, value in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(value)
                opened.addfile(member, io.BytesIO(value))
    return file


@pytest.mark.parametrize("ending", ["tar", "zip"])
class TestArchives:
    def test_class_folders_and_splits_in_one_file(self, tmp_path, ending):
        content = {f"./pets/{split}/{name}/{shade}.png": png(shade) for split, name, shade in
                   [("Training", "cat", 1), ("Training", "dog", 2), ("Testing", "dog", 3)]}  # fmt: skip
        file = pack(tmp_path / f"pets.{ending}", content)
        for source in (file, tmp_path):
            images = load(source)
            assert shades(images) == [1, 2] and images.labels.tolist() == [0, 1] and images.label_names == ["cat", "dog"]
            assert names(images) == ["./pets/Training/cat/1.png", "./pets/Training/dog/2.png"]
            assert shades(load(source, "test")) == [3] and load(source, "test").labels.tolist() == [1]

    def test_one_file_a_split(self, tmp_path, ending):
        pack(tmp_path / f"train.{ending}", {"train/cat/1.png": png(1), "train/dog/2.png": png(2)})
        pack(tmp_path / f"test.{ending}", {"cat/3.png": png(3), "dog/4.png": png(4)})
        assert shades(load(tmp_path)) == [1, 2] and shades(load(tmp_path, "test")) == [3, 4]
        assert load(tmp_path, "test").labels.tolist() == [0, 1]

    def test_what_is_hidden_or_no_image_is_left_out_and_said(self, tmp_path, ending, caplog):
        content = {"a/1.png": png(1), "b/2.png": png(2), "__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "b/3.heic": b"x"}
        assert len(load(pack(tmp_path / f"set.{ending}", content))) == 2
        assert ": 2 images in 2 classes; 1 file not read: .heic 1; 2 hidden left out" in caplog.text

    def test_broken_members_are_named(self, tmp_path, ending):
        content = {f"{shade:03}.png": png(shade) for shade in range(120)} | {"005.png": b"<html>"}
        images = load(pack(tmp_path / f"set.{ending}", content))
        assert len(shades(images)) == len(images) and images.skipped == ["005.png"]

    def test_splits_in_an_archive_that_is_named_after_one_are_told(self, tmp_path, ending, caplog):
        file = pack(tmp_path / f"pets-train.{ending}", {"train/cat/1.png": png(1), "train/dog/2.png": png(2), "test/cat/3.png": png(3)})
        assert shades(load(file)) == [1, 2]
        assert "; of the splits in the archive, test, train, 'train' alone is read" in caplog.text

    def test_train_and_test_in_every_class_are_never_one_split(self, tmp_path, ending):
        file = pack(tmp_path / f"set.{ending}", {f"{name}/{split}/0.png": png(1) for name in ("ant", "bee") for split in ("train", "test")})
        assert refused(file).startswith("splits (test, train) lie in 'ant', not at the top: ")

    def test_damaged_archive_among_others_is_named(self, tmp_path, ending, caplog):
        pack(tmp_path / f"train-0.{ending}", {"1.png": png(1)})
        (tmp_path / f"train-1.{ending}").write_bytes(b"<html>" * 1000)
        assert shades(load(tmp_path)) == [1]
        assert f"cannot read '{tmp_path}/train-1.{ending}': " in caplog.text

    def test_dots_in_names_are_no_endings_of_samples(self, tmp_path, ending):
        assert shades(load(pack(tmp_path / f"set.{ending}", {"photo.1.png": png(1), "photo.2.png": png(2)}))) == [1, 2]

    def test_names_that_lead_elsewhere_are_names_alone(self, tmp_path, ending):
        images = load(pack(tmp_path / f"set.{ending}", {"../../1.png": png(1), "/etc/2.png": png(2), "3.png": png(3)}))
        assert sorted(shades(images)) == [2, 3]


class TestArchivesOfOldPrograms:
    def test_backslashes_in_a_zip_file_are_folders(self, tmp_path):
        images = load(pack(tmp_path / "set.zip", {"ant\\1.png": png(1), "bee\\2.png": png(2)}))
        assert shades(images) == [1, 2] and images.label_names == ["ant", "bee"]

    def test_hard_links_in_a_tar_file_are_files_and_other_links_are_told(self, tmp_path, caplog):
        file = pack(tmp_path / "set.tar", {"a.png": png(7)})
        with tarfile.open(file, "a") as opened:
            for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "a.png"
                opened.addfile(member)
        assert shades(load(file)) == [7, 7]
        assert "; links and the like in set.tar, not read: c.png" in caplog.text


class TestWebDataset:
    def content(self, shades_, **other):
        content = {}
        for shade in shades_:
            content[f"{shade:04}.png"] = png(shade)
            content |= {f"{shade:04}.{ending}": value.format(shade) for ending, value in other.items()}
        return content

    @pytest.mark.parametrize("names_", [("train-0.tar", "train-1.tar"), ("train/0.tar", "train/1.tar"), ("0.tar", "1.tar")])
    def test_shards_in_order_with_their_labels(self, tmp_path, names_):
        for number, name in enumerate(names_):
            pack(tmp_path / "set" / name, self.content([2 * number, 2 * number + 1], cls="{}", json="{{}}"))
        images = load(tmp_path / "set")
        assert shades(images) == [0, 1, 2, 3] and images.labels.tolist() == [0, 1, 2, 3] and images.label_names == ["0", "1", "2", "3"]

    def test_same_names_in_every_shard(self, tmp_path):
        for number in range(2):
            pack(tmp_path / "set" / f"train-{number}.tar", {"0.png": png(number), "0.cls": str(number)})
        images = load(tmp_path / "set")
        assert sorted(shades(images)) == [0, 1] and images.labels.tolist() == shades(images)

    def test_texts_are_classes_and_another_ending_is_named(self, tmp_path):
        content = {"1.png": png(1), "1.kind": "dog\n", "2.png": png(2), "2.kind": "cat", "3.png": png(3), "3.kind": "dog"}
        file = pack(tmp_path / "train.tar", content)
        images = load(file, label_column="kind")
        assert images.label_names == ["cat", "dog"] and images.labels.tolist() == [1, 0, 1]
        assert "no file next to an image" in refused(file, label_column="knid")

    def test_some_samples_without_a_label(self, tmp_path, caplog):
        content = {"1.png": png(1), "1.cls": "7", "2.png": png(2), "2.cls": "-1", "3.png": png(3), "4.png": png(4), "4.cls": "5"}
        images = load(pack(tmp_path / "train.tar", content))
        assert images.labels.tolist() == [1, -1, -1, 0] and images.label_names == ["5", "7"]
        assert "; 2 images without a label: 2.png, 3.png" in caplog.text

    def test_samples_of_several_images_want_a_choice(self, tmp_path):
        content = {f"{shade}.{ending}": png(shade + more) for shade in (1, 2) for ending, more in (("png", 0), ("seg.png", 10))}
        file = pack(tmp_path / "train.tar", content)
        assert refused(file) == "samples have several images; choose their ending as image_column: png, seg.png"
        assert shades(load(file, image_column="png")) == [1, 2] and shades(load(file, image_column="seg.png")) == [11, 12]
        assert refused(file, image_column="jpg").startswith("unknown image column 'jpg': ")

    def test_shard_that_ends_early_gives_what_is_in_it(self, tmp_path, caplog):
        file = pack(tmp_path / "train.tar", self.content(range(120)))
        file.write_bytes(file.read_bytes()[: 100 * 1024 + 700])
        images = load(file, broken_share=1.0)
        assert 90 < len(images) <= 101 and shades(images) == list(range(len(images)))
        assert "damaged after" in caplog.text or images.skipped

    @pytest.mark.parametrize("name", ["set.tar.gz", "set.tgz"])
    def test_compressed_as_a_whole(self, tmp_path, name):
        assert "is compressed as a whole" in refused(pack(tmp_path / name, {"1.png": png(1)}))

    @pytest.mark.parametrize("name", ["train.tar", "train.zip"])
    def test_file_that_is_no_archive(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"<html>" * 1000)
        assert refused(tmp_path / name).startswith(f"cannot read '{tmp_path}/{name}': ")
        pack(tmp_path / name, {"notes.txt": "nothing"})
        assert refused(tmp_path / name) == f"no images in '{tmp_path}/{name}'; 1 file not read: .txt 1"

    def test_member_of_gigabytes_is_not_unpacked(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sslzoo.data.archives.MAX_BYTES", 5000)
        file = pack(tmp_path / "train.zip", {"1.png": png(1), "2.png": b"\0" * 10_000})
        assert load(file).skipped == ["2.png"]


class TestTables:
    @pytest.fixture
    def folder(self, tmp_path):
        for shade in range(4):
            (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / "images" / f"{shade}.png").write_bytes(png(shade))
        return tmp_path / "set"

    @pytest.mark.parametrize("column", ["file_name", "image", "path", "Bild"])
    @pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
    def test_paths_and_labels(self, folder, column, kind):
        rows = [{column: f"images/{shade}.png", "label": label, "note": "x, y"} for shade, label in ((3, "cat"), (0, "dog"), (2, "cat"))]
        quote = {"csv": ",", "tsv": "\t"}.get(kind)
        lines = [json.dumps(row) for row in rows]
        if quote:
            lines = [quote.join(row) for row in ((column, "label", "note"), *((row[column], row["label"], '"x, y"') for row in rows))]
        (folder / f"photos.{kind}").write_text("\n".join(lines))
        images = load(folder / f"photos.{kind}")
        assert shades(images) == [3, 0, 2] and names(images) == ["images/3.png", "images/0.png", "images/2.png"]
        assert images.label_names == ["cat", "dog"] and images.labels.tolist() == [0, 1, 0]

    def test_whole_numbers_are_classes_in_their_order(self, folder):
        (folder / "train.csv").write_text("path,label\nimages/1.png,10\nimages/2.png,9\n")
        images = load(folder / "train.csv")
        assert images.labels.tolist() == [1, 0] and images.label_names == ["9", "10"]
        assert refused(folder / "train.csv", "test") == "unknown split 'test': choose from: train"

    def test_what_is_missing_is_named(self, folder):
        file = folder / "train.csv"
        file.write_text("path,other,kind,share\nimages/1.png,images/2.png,a,0.5\n")
        assert refused(file) == "several columns of 'train.csv' hold paths to images, choose one as image_column: path, other"
        assert refused(file, image_column="pth") == "unknown image column 'pth': did you mean 'path'?"
        assert refused(file, image_column="path", label_column="knid") == "unknown label column 'knid': did you mean 'kind'?"
        assert "holds fractions such as 0.5" in refused(file, image_column="path", label_column="share")
        file.write_text("a,b\n1,2\n")
        assert refused(file) == "no column of 'train.csv' holds paths to images; the columns are: a, b"
        file.write_text("")
        assert refused(file) == "no column of 'train.csv' holds paths to images; the columns are: "

    def test_line_with_the_names_of_the_columns_is_never_taken_from_the_images(self, folder):
        (folder / "train.csv").write_text("images/1.png,a\nimages/2.png,b\n")
        assert refused(folder / "train.csv") == "'train.csv' has no line with the names of its columns: it begins with images/1.png, a"

    def test_two_columns_of_one_name(self, folder):
        (folder / "train.csv").write_text("path,label,label\nimages/1.png,a,b\n")
        assert refused(folder / "train.csv") == f"two columns of '{folder}/train.csv' have the same name: path, label, label"

    def test_column_of_splits(self, folder, caplog):
        rows = "images/1.png,train,b\nimages/0.png,test,c\nimages/2.png,train,c\nimages/3.png,,a\n"
        (folder / "photos.csv").write_text(f"path,split,label\n{rows}")
        images = load(folder / "photos.csv")
        assert shades(images) == [1, 2] and images.splits == ("test", "train") and classes(images).keys() == {"b", "c"}
        assert "; 1 row without a split, left out" in caplog.text
        test = load(folder / "photos.csv", "eval")
        assert shades(test) == [0] and test.labels.tolist() == [images.label_names.index("c")]
        assert refused(folder / "photos.csv", "val").startswith("unknown split 'val': ")

    def test_column_of_splits_in_a_file_of_one_is_said_not_to_be_looked_at(self, folder, caplog):
        (folder / "train.csv").write_text("path,split\nimages/1.png,train\nimages/2.png,test\n")
        assert shades(load(folder / "train.csv")) == [1, 2]
        assert "; column 'split' is not used, all rows are read: test, train" in caplog.text

    def test_broken_rows_are_named_and_refuse_nothing(self, folder):
        lines = [json.dumps({"path": f"images/{row % 4}.png"}) for row in range(300)]
        lines[7], lines[9] = "{", json.dumps({"path": "images/gone.png"})
        (folder / "train.jsonl").write_text("\n".join(lines))
        images = load(folder / "train.jsonl")
        assert len(images) == 298 and images.skipped == ["row 7", "images/gone.png"]

    def test_path_that_is_no_utf_8(self, folder):
        os.rename(os.fsencode(folder / "images" / "1.png"), os.fsencode(folder) + b"/images/caf\xe9.png")
        (folder / "train.csv").write_bytes(b"path\nimages/caf\xe9.png\nimages/2.png\n")
        images = load(folder / "train.csv")
        assert shades(images) == [1, 2] and names(images)[0] == r"images/caf\xe9.png"
