"""Finding images: what counts as one, what it is called, and in which order it comes."""

import errno
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fext.data.source import find_images
from fext.errors import SourceError
from fext.reporting import SilentReporter


class Listener(SilentReporter):
    """Hears what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)

    warning = message


def picture(file: Path, file_format: str = "PNG") -> None:
    """A small good image in that file, in folders made for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(file, file_format)


def test_images_are_found_at_any_depth_and_named_by_their_path_from_the_source(tmp_path: Path) -> None:
    for name in ("top.png", "a/one.png", "a/b/c/d/deep.png"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    found = find_images(tmp_path)
    assert found.names == ("a/b/c/d/deep.png", "a/one.png", "top.png")
    assert len(found) == 3
    assert found.path("a/one.png") == tmp_path / "a" / "one.png"


def test_two_images_of_one_name_in_two_folders_are_two_images(tmp_path: Path) -> None:
    picture(tmp_path / "left" / "001.png")
    picture(tmp_path / "right" / "001.png")
    assert find_images(tmp_path).names == ("left/001.png", "right/001.png")


def test_names_are_sorted_by_the_bytes_of_the_whole_path(tmp_path: Path) -> None:
    # Capitals before small letters; '-' before '.' before '/' before digits; what is not ASCII last.
    in_order = ("B.png", "a-b.png", "a.png", "a/z.png", "a0.png", "img10.png", "img2.png", "Ü.png", "日本.png")
    for name in reversed(in_order):
        picture(tmp_path / name)
    assert find_images(tmp_path).names == in_order


def test_hidden_files_and_folders_are_skipped_and_not_counted(tmp_path: Path) -> None:
    for name in ("seen.png", ".hidden.png", ".thumbnails/small.png", "folder/.cache/small.png", "folder/.DS_Store"):
        picture(tmp_path / name)
    found = find_images(tmp_path)
    assert (found.names, found.num_not_images) == (("seen.png",), 0)


def test_what_the_system_keeps_beside_images_is_left_out_and_told(tmp_path: Path) -> None:
    folders = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found", ".Trashes", "#recycle")
    for folder in folders:
        picture(tmp_path / "photos" / folder / "small.png")
    picture(tmp_path / "photos" / "one.png")
    for name in ("Thumbs.db", "desktop.ini", "._one.png", "THUMBS.DB"):
        (tmp_path / "photos" / "deeper").mkdir(exist_ok=True)
        (tmp_path / "photos" / "deeper" / name).write_text("not an image")
    listener = Listener()
    found = find_images(tmp_path, listener)
    num_system = len(folders) + len(os.listdir(tmp_path / "photos" / "deeper"))
    assert (found.names, found.num_not_images, found.num_system) == (("photos/one.png",), 0, num_system)
    (told,) = listener.heard
    assert told.startswith(f"files and folders of the system, which are left out: {num_system} (photos/")
    assert told.endswith(f" and {num_system - 3} more)")


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "lost+found"])
def test_a_folder_of_the_system_that_is_named_itself_is_taken(name: str, tmp_path: Path) -> None:
    picture(tmp_path / name / "one.png")
    assert find_images(tmp_path / name).names == ("one.png",)


def refuse_folders(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Folders of these names may not be read: by whoever runs the tests, who may be root."""
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if isinstance(path, str) and Path(path).name in names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_folder_below_that_may_not_be_read_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.png", "a/two.png", "a/shut/three.png", "away/four.png"):
        picture(tmp_path / name)
    refuse_folders(monkeypatch, "shut", "away")
    listener = Listener()
    found = find_images(tmp_path, listener)
    assert found.names == ("a/two.png", "one.png")
    assert [found.is_unreadable(name) for name in ("a/shut/three.png", "away/four.png", "a/two.png")] == [1, 1, 0]
    reason = os.strerror(errno.EACCES)
    assert listener.heard == [
        f"2 folders cannot be read, and what is in there is left out: away ({reason}), a/shut ({reason})"
    ]


def test_the_named_folder_itself_has_to_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "shut" / "one.png")
    refuse_folders(monkeypatch, "shut")
    with pytest.raises(SourceError, match="shut cannot be read"):
        find_images(tmp_path / "shut")


def test_a_hidden_source_folder_is_searched_all_the_same(tmp_path: Path) -> None:
    picture(tmp_path / ".photos" / "one.png")
    assert find_images(tmp_path / ".photos").names == ("one.png",)


def test_an_extension_in_any_case_makes_a_file_an_image_whatever_it_holds(tmp_path: Path) -> None:
    names = ("a.JPG", "b.Jpeg", "c.tiff", "d.webp", "e.bmp", "f.gif", "text.png")
    for name in names:
        (tmp_path / name).write_text("not an image at all")
    assert find_images(tmp_path).names == names


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", ["without_extension", "wrong.dat", "wrong.txt"])
def test_the_first_bytes_make_a_file_an_image_whatever_it_is_called(
    name: str, file_format: str, tmp_path: Path
) -> None:
    picture(tmp_path / name, file_format)
    assert find_images(tmp_path).names == (name,)


def test_other_files_are_counted_as_not_images(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    for name in ("notes.txt", "table.csv", "archive.zip", "sub/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PK\3\4 or any other bytes that begin no image")
    found = find_images(tmp_path)
    assert (found.names, found.num_not_images) == (("one.png",), 4)


@pytest.mark.parametrize("content", [b"", b"a", b"P", b"MM", b"\n\n\n"])
def test_a_file_of_a_few_bytes_is_not_an_image(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny").write_bytes(content)
    found = find_images(tmp_path)
    assert (found.names, found.num_not_images) == ((), 1)


@pytest.mark.parametrize(
    "text", ["Python scripts that made these images", "P0001,healthy\nP0002,ill\n", "P2P transfer of these images"]
)
def test_text_that_begins_like_a_portable_pixmap_is_not_an_image(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    found = find_images(tmp_path)
    assert (found.names, found.num_not_images) == ((), 1)


def test_a_folder_without_images_has_none(tmp_path: Path) -> None:
    assert find_images(tmp_path).names == ()


@pytest.mark.parametrize("target", ["", "sub"])
def test_a_link_that_leads_back_ends_and_each_image_is_found_once(target: str, tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    picture(tmp_path / "sub" / "two.png")
    (tmp_path / "sub" / "back").symlink_to(tmp_path / target)
    assert find_images(tmp_path).names == ("one.png", "sub/two.png")


def test_a_link_to_itself_is_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    (tmp_path / "loop").symlink_to("loop")
    assert find_images(tmp_path).names == ("one.png",)


def test_linked_files_and_folders_are_followed(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "deep" / "two.png")
    source = tmp_path / "source"
    source.mkdir()
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    (source / "file.png").symlink_to(tmp_path / "elsewhere" / "deep" / "two.png")
    assert find_images(source).names == ("file.png", "folder/deep/two.png")


@pytest.mark.parametrize(
    "name",
    ["a,b.png", 'a"b".png', "a\nb.png", "=1+1.png", "-x.png", "@x.png", " padded .png", "a'b.png", "été 写真.png"],
)
def test_any_file_name_is_a_name(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "folder" / name)
    found = find_images(tmp_path)
    assert found.names == (f"folder/{name}",)
    assert found.path(found.names[0]).is_file()


def test_a_file_name_that_is_not_utf_8_is_found_in_its_place_and_can_be_opened(tmp_path: Path) -> None:
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    picture(tmp_path / "\N{GRINNING FACE}.png")  # begins with the byte F0
    found = find_images(tmp_path)
    assert found.names == ("\N{GRINNING FACE}.png", "\udcff.png")
    assert found.path(found.names[1]).read_bytes() == b"x"


def test_a_text_file_lists_one_path_a_line_and_the_names_are_the_paths_as_listed(tmp_path: Path) -> None:
    listed = ["sub/two.png", "=1,2.png", "./one.png", "../outside.png", "/absolute/three.png", "with space.png"]
    picture(tmp_path / "sub" / "two.png")
    (tmp_path / "list.txt").write_text("\n".join(listed) + "\n\n", encoding="utf-8")
    found = find_images(tmp_path / "list.txt")
    assert found.names == tuple(sorted(listed))
    assert found.path("sub/two.png") == tmp_path / "sub" / "two.png"
    assert found.path("/absolute/three.png") == Path("/absolute/three.png")


def test_a_text_file_written_on_windows_lists_the_same(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    for encoding in ("utf-8-sig", "utf-16"):  # what editors write, and what PowerShell does
        (tmp_path / "list.txt").write_text("one.png\r\ntwö.png\r\n", encoding, newline="")
        assert find_images(tmp_path / "list.txt").names == ("one.png", "twö.png")


def test_a_path_listed_twice_is_one_image_and_one_that_is_missing_is_still_an_image(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    (tmp_path / "list.txt").write_text("missing.png\none.png\nmissing.png\n")
    listener = Listener()
    assert find_images(tmp_path / "list.txt", listener).names == ("missing.png", "one.png")
    assert listener.heard == ["1 of the 2 paths in list.txt lead to no file: missing.png"]


@pytest.mark.parametrize(("name", "text"), [("list.txt", "a.png\nb.png\n"), ("list.csv", "image;label\na.png;x\n")])
def test_a_list_of_which_no_line_leads_to_a_file_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=rf"no line of .*{name} leads to a file \(a\.png"):
        find_images(tmp_path / name)


@pytest.mark.parametrize(
    "line",
    [
        "sub/one two.png",
        '"sub/one two.png"',
        "'sub/one two.png'",
        "  sub/one two.png\t",
        "sub\\one two.png",
        '".\\sub\\one two.png"',
        "sub/one\\ two.png",
        "\u202asub/one two.png",
    ],
)
def test_a_listed_path_may_be_quoted_escaped_or_have_blanks_around_it(line: str, tmp_path: Path) -> None:
    picture(tmp_path / "sub" / "one two.png")
    (tmp_path / "list.txt").write_text(line + "\n", encoding="utf-8")
    found = find_images(tmp_path / "list.txt")
    assert len(found) == 1
    assert found.path(found.names[0]).is_file()


def test_a_path_that_leads_to_a_file_as_it_stands_is_taken_as_it_stands(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("no such names there")
    names = (" one.png", "'one.png'", "one.png", "sub\\one.png")
    for name in names:
        picture(tmp_path / name)
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert find_images(tmp_path / "list.txt").names == names


@pytest.mark.parametrize(("listed", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_listed_path_may_have_its_letters_composed_in_another_way(listed: str, on_disk: str, tmp_path: Path) -> None:
    name = "forêt/Müller 한.png"
    picture(tmp_path / unicodedata.normalize(on_disk, name))
    (tmp_path / "list.txt").write_text(unicodedata.normalize(listed, name), encoding="utf-8")
    found = find_images(tmp_path / "list.txt")
    assert found.path(found.names[0]).is_file()


def test_letters_composed_in_another_way_are_not_guessed_where_two_files_have_them(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    forms = ["\u1e69.png", "s\u0323\u0307.png", "s\u0307\u0323.png"]  # one letter in three ways
    for form in forms[1:]:
        picture(tmp_path / form)
    if len(os.listdir(tmp_path)) < 3:
        pytest.skip("this file system has one name for all of them")
    (tmp_path / "list.txt").write_text(f"one.png\n{forms[0]}\n", encoding="utf-8")
    assert forms[0] in find_images(tmp_path / "list.txt").names


@pytest.mark.parametrize("header", ["image", "path", "file", "filename", "Image", " IMAGE "])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_lists_paths_in_the_column_that_its_header_names(header: str, separator: str, tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    rows = f'label|{header}\ncat|one.png\ndog|"a,""b"".png"\ndog|"line\nbreak.png"\n\n'.replace("|", separator)
    (tmp_path / "list.csv").write_text(rows, encoding="utf-8")
    assert find_images(tmp_path / "list.csv").names == ('a,"b".png', "line\nbreak.png", "one.png")


def test_a_csv_without_such_a_header_lists_paths_in_its_first_column(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    for separator in (",", ";", "\t"):
        (tmp_path / "list.CSV").write_text("b.png,dog\na.png,cat\n".replace(",", separator))
        assert find_images(tmp_path / "list.CSV").names == ("a.png", "b.png")


def test_a_list_that_is_not_utf_8_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    with pytest.raises(SourceError, match=r"list\.txt cannot be read as a list of images"):
        find_images(tmp_path / "list.txt")


def test_a_missing_location_is_named_and_the_message_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        find_images(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path / 'nowhere'} does not exist: give a folder of images, or a .txt or .csv file that lists them"
    )


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    with pytest.raises(SourceError, match="neither a folder nor a list of images"):
        find_images(tmp_path / "one.png")


def test_a_link_that_leads_nowhere_is_found_by_its_name_and_one_to_a_pipe_is_no_image(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("links need a right there")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "photo.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    source = find_images(tmp_path)
    assert source.names == ("circle.jpg", "photo.jpg")
    assert source.num_not_images == 2


def test_a_link_to_a_folder_does_not_rename_the_images_in_it(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("links need a right there")
    (tmp_path / "z" / "real").mkdir(parents=True)
    (tmp_path / "z" / "real" / "photo.jpg").touch()
    (tmp_path / "a_link").symlink_to(tmp_path / "z" / "real")
    assert find_images(tmp_path).names == ("z/real/photo.jpg",)


@pytest.mark.parametrize("name", ["phone.heic", "PHOTO.HEIC", "drawing.svg", "camera.cr2"])
def test_images_that_pillow_does_not_open_are_found_and_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert find_images(tmp_path).names == (name,)


@pytest.mark.parametrize("line", ["a\0b.png", "x" * 40_000])
def test_a_list_that_no_system_could_have_made_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"one.png\n{line}\n")
    with pytest.raises(SourceError, match="is not a list of images"):
        find_images(tmp_path / "list.txt")
