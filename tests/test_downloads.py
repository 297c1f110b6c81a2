"""Downloads: a file is fetched once, from the first source that has it, or a message says why."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from robustgen.data import download
from robustgen.data.download import PublicFile, fetch
from robustgen.errors import UserError

CONTENT = b"images and labels " * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "letters/images.gz"


class Mirror(BaseHTTPRequestHandler):
    """A server that behaves as the first part of the path says."""

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        if behaviour == "absent":
            return self.send_error(404)
        if behaviour == "silent":
            time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        match behaviour:
            case "good":
                self.wfile.write(CONTENT)
            case "other":
                self.wfile.write(CONTENT[::-1])
            case "short":
                self.wfile.write(CONTENT[:1000])
            case "stuck":
                self.wfile.write(CONTENT[:1000])
                self.wfile.flush()
                time.sleep(1)
            case "slow" | "slower":
                if behaviour == "slower":  # it starts at a good rate
                    self.wfile.write(CONTENT[:50_000])
                for index in range(60):
                    self.wfile.write(CONTENT[index : index + 1])
                    self.wfile.flush()
                    time.sleep(0.02)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    served.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def make_file(*urls: str, installed: Path | None = None) -> PublicFile:
    return PublicFile(NAME, MD5, urls, installed)


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("source", ["mirror", "folder", "address", "fallback"])
def test_a_file_is_fetched_once_and_stored(tmp_path: Path, server: str, source: str) -> None:
    folder = tmp_path / "data"
    write(tmp_path / "mirror" / NAME)
    file = make_file(f"{server}/good/x") if source in ("address", "fallback") else make_file()
    mirror = {
        "mirror": f"{server}/good/",
        "folder": str(tmp_path / "mirror"),
        "fallback": f"{server}/other",
    }
    path = folder / NAME
    assert fetch([file], folder, mirror.get(source)) == [path]
    assert path.read_bytes() == CONTENT
    assert fetch([make_file()], folder) == [path]
    assert list_files(folder) == [path]


def test_sources_are_tried_in_order(tmp_path: Path, server: str) -> None:
    folder, installed = (
        tmp_path / "data",
        write(tmp_path / "usr" / "images.gz", b"compressed again"),
    )
    file = make_file(f"{server}/good/x", installed=installed)
    assert fetch([file], folder, f"{server}/good") == [installed]
    assert not folder.exists()
    path = write(folder / NAME)
    assert fetch([file], folder) == [path]


@pytest.mark.parametrize("content", [CONTENT[:-1], b""], ids=["cut short", "empty"])
def test_a_wrong_file_in_the_folder_is_named_and_not_changed(
    tmp_path: Path, server: str, content: bytes
) -> None:
    path = write(tmp_path / NAME, content)
    missing_file = PublicFile("letters/labels.gz", MD5, (f"{server}/good/x",))
    with pytest.raises(UserError) as caught:
        fetch([missing_file, make_file(f"{server}/good/x")], tmp_path, f"{server}/good")
    assert str(caught.value) == (
        f"{path} has the MD5 checksum {hashlib.md5(content).hexdigest()}, but must have {MD5}: "
        "remove or replace the file"
    )
    assert path.read_bytes() == content
    assert list_files(tmp_path) == [path]


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, " is a folder, but must be a file of a public data set"),
    "a broken link": (lambda path: path.symlink_to("gone"), " is a link to gone, which does not"),
    "a loop": (
        lambda path: path.symlink_to(path.name),
        " cannot be read: Too many levels of symbolic links",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_folder_or_link_instead_of_a_file_is_named_and_not_changed(
    tmp_path: Path, server: str, make: Callable[[Path], object], sentence: str
) -> None:
    path = tmp_path / NAME
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError) as caught:
        fetch([make_file(f"{server}/good/x")], tmp_path)
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert list(path.parent.iterdir()) == [path]


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / NAME)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=f"{path} cannot be read: Permission denied"):
        fetch([make_file()], tmp_path)


def test_home_folders_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mirror" / NAME)
    assert fetch([make_file()], "~/data", "~/mirror") == [tmp_path / "data" / NAME]
    for folder, mirror in (("~no_such_user/x", None), ("~/other", "~no_such_user/x")):
        with pytest.raises(UserError, match="no home folder is known for ~no_such_user: write"):
            fetch([make_file()], folder, mirror)


def test_a_relative_folder_is_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        fetch([make_file()], "data", "mirror")
    assert str(caught.value) == (
        f"{NAME} could not be downloaded ({tmp_path}/mirror/{NAME}: No such file or directory): "
        f"put {NAME} into the folder {tmp_path}/data, or name a folder or URL that has them as "
        "downloads.mirror; data is relative to the working directory, which snakemake's "
        "--directory sets"
    )


BAD_SOURCES = {
    "absent": "Not Found",
    "other": "its checksum is wrong: it is incomplete or another file",
    "short": "its checksum is wrong: it is incomplete or another file",
    "silent": "timed out",
    "stuck": "timed out",
    "slow": "it sends only",
    "slower": "it sends only",
}


@pytest.mark.parametrize(("behaviour", "reason"), BAD_SOURCES.items(), ids=BAD_SOURCES)
def test_a_bad_source_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, server: str, behaviour: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason in ("timed out", "it sends only"):  # others must not time out on a busy machine
        monkeypatch.setattr(download, "STALL_TIMEOUT_S", 0.3)
    folder = tmp_path / "data"
    with pytest.raises(UserError) as caught:
        fetch([make_file(f"{server}/{behaviour}/images.gz")], folder)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"{NAME} could not be downloaded ({server}/{behaviour}/images.gz: ")
    assert len(message.splitlines()) == 1
    assert not list_files(folder)


@pytest.mark.parametrize(
    "mirror",
    [
        "http://127.0.0.1:9",
        "gopher://127.0.0.1",
        "http://a b",
        "nowhere",
        "http://ä",
        "http://[::1",
    ],
)
def test_an_unusable_mirror_is_one_sentence(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch([make_file()], tmp_path / "data", mirror)
    assert str(caught.value).startswith(f"{NAME} could not be downloaded (")
    assert len(str(caught.value).splitlines()) == 1
    assert not list_files(tmp_path)


def test_without_any_source_the_message_lists_all_missing_files(tmp_path: Path) -> None:
    write(tmp_path / "b/3")
    files = [PublicFile(f"b/{name}", MD5, ("http://127.0.0.1:9/x",)) for name in "1234"]
    with pytest.raises(UserError) as caught:
        fetch(files, tmp_path)
    assert str(caught.value) == (
        "b/1 could not be downloaded (http://127.0.0.1:9/x: Connection refused): put b/1, b/2, b/4 "
        f"into the folder {tmp_path}, or name a folder or URL that has them as downloads.mirror"
    )


def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "data")
    with pytest.raises(UserError, match="data/letters cannot be written: Not a directory"):
        fetch([make_file("http://127.0.0.1:9/x")], tmp_path / "data")
