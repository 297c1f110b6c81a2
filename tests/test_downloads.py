"""Files are fetched once, from the first source that gives them whole, or one sentence says why."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from robustgen.data import download as downloads
from robustgen.data.download import PublicFile, fetch
from robustgen.errors import UserError

CONTENT = b"images and labels " * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()
PLACE = "letters/images.gz"


class Mirror(BaseHTTPRequestHandler):
    """Serves the file well or badly, as the first part of the path says."""

    def do_GET(self) -> None:
        how = self.path.split("/")[1]
        if how == "absent":
            return self.send_error(404)
        if how == "silent":
            time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        match how:
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
                if how == "slower":  # after a good start
                    self.wfile.write(CONTENT[:50_000])
                for at in range(60):
                    self.wfile.write(CONTENT[at : at + 1])
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
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy."""
    monkeypatch.setenv("no_proxy", "*")


def a_file(*addresses: str, installed: Path | None = None) -> PublicFile:
    return PublicFile(PLACE, MD5, addresses, installed)


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def held(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("source", ["mirror", "folder", "address", "fallback"])
def test_a_file_is_fetched_once_and_kept(tmp_path: Path, server: str, source: str) -> None:
    folder = tmp_path / "data"
    put(tmp_path / "mirror" / PLACE)
    file = a_file(f"{server}/good/x") if source in ("address", "fallback") else a_file()
    mirror = {
        "mirror": f"{server}/good/",
        "folder": str(tmp_path / "mirror"),
        "fallback": f"{server}/other",
    }
    kept = folder / PLACE
    assert fetch([file], folder, mirror.get(source)) == [kept]
    assert kept.read_bytes() == CONTENT
    assert fetch([a_file()], folder) == [kept]
    assert held(folder) == [kept]


def test_sources_are_asked_in_order(tmp_path: Path, server: str) -> None:
    folder, installed = tmp_path / "data", put(tmp_path / "usr" / "images.gz", b"packed anew")
    file = a_file(f"{server}/good/x", installed=installed)
    assert fetch([file], folder, f"{server}/good") == [installed]
    assert not folder.exists()
    kept = put(folder / PLACE)
    assert fetch([file], folder) == [kept]


@pytest.mark.parametrize("content", [CONTENT[:-1], b""], ids=["cut short", "empty"])
def test_a_wrong_file_in_the_folder_is_kept_and_named(
    tmp_path: Path, server: str, content: bytes
) -> None:
    kept = put(tmp_path / PLACE, content)
    other = PublicFile("letters/labels.gz", MD5, (f"{server}/good/x",))
    with pytest.raises(UserError) as caught:
        fetch([other, a_file(f"{server}/good/x")], tmp_path, f"{server}/good")
    assert str(caught.value) == (
        f"{kept} has the MD5 checksum {hashlib.md5(content).hexdigest()}, but must have {MD5}: "
        "remove or replace the file"
    )
    assert kept.read_bytes() == content
    assert held(tmp_path) == [kept]


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, " is a folder, but must be a file of a public data set"),
    "a broken link": (lambda path: path.symlink_to("gone"), " is a link to gone, which does not"),
    "a loop": (
        lambda path: path.symlink_to(path.name),
        " cannot be read: Too many levels of symbolic links",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_file_in_the_folder_is_kept_and_named(
    tmp_path: Path, server: str, make: Callable[[Path], object], sentence: str
) -> None:
    path = tmp_path / PLACE
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError) as caught:
        fetch([a_file(f"{server}/good/x")], tmp_path)
    assert str(caught.value).startswith(f"{path}{sentence}")
    assert list(path.parent.iterdir()) == [path]


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / PLACE)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=f"{path} cannot be read: Permission denied"):
        fetch([a_file()], tmp_path)


def test_home_folders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "mirror" / PLACE)
    assert fetch([a_file()], "~/data", "~/mirror") == [tmp_path / "data" / PLACE]
    for folder, mirror in (("~no_such_user/x", None), ("~/other", "~no_such_user/x")):
        with pytest.raises(UserError, match="no home folder is known for ~no_such_user: write"):
            fetch([a_file()], folder, mirror)


def test_a_relative_folder_is_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        fetch([a_file()], "data", "mirror")
    assert str(caught.value) == (
        f"{PLACE} could not be fetched ({tmp_path}/mirror/{PLACE}: No such file or directory): put "
        f"{PLACE} into the folder {tmp_path}/data, or name a folder or address that has them as "
        "downloads.mirror; data is relative to the working directory, which snakemake's "
        "--directory sets"
    )


BAD_SOURCES = {
    "absent": "Not Found",
    "other": "it is cut short or another file, by its checksum",
    "short": "it is cut short or another file, by its checksum",
    "silent": "timed out",
    "stuck": "timed out",
    "slow": "it sends only",
    "slower": "it sends only",
}


@pytest.mark.parametrize(("how", "why"), BAD_SOURCES.items(), ids=BAD_SOURCES)
def test_a_bad_source_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, server: str, how: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why in ("timed out", "it sends only"):  # others must not be given up on a busy machine
        monkeypatch.setattr(downloads, "SILENCE", 0.3)
    folder = tmp_path / "data"
    with pytest.raises(UserError) as caught:
        fetch([a_file(f"{server}/{how}/images.gz")], folder)
    says = str(caught.value)
    assert why in says
    assert says.startswith(f"{PLACE} could not be fetched ({server}/{how}/images.gz: ")
    assert len(says.splitlines()) == 1
    assert not held(folder)


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
def test_a_mirror_that_is_none_is_one_sentence(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch([a_file()], tmp_path / "data", mirror)
    assert str(caught.value).startswith(f"{PLACE} could not be fetched (")
    assert len(str(caught.value).splitlines()) == 1
    assert not held(tmp_path)


def test_without_any_source_it_says_which_files_to_put_where(tmp_path: Path) -> None:
    put(tmp_path / "b/3")
    files = [PublicFile(f"b/{name}", MD5, ("http://127.0.0.1:9/x",)) for name in "1234"]
    with pytest.raises(UserError) as caught:
        fetch(files, tmp_path)
    assert str(caught.value) == (
        "b/1 could not be fetched (http://127.0.0.1:9/x: Connection refused): put b/1, b/2, b/4 "
        f"into the folder {tmp_path}, or name a folder or address that has them as downloads.mirror"
    )


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    put(tmp_path / "data")
    with pytest.raises(UserError, match="data/letters cannot be written: Not a directory"):
        fetch([a_file("http://127.0.0.1:9/x")], tmp_path / "data")
