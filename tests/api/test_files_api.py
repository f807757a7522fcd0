import hashlib
import http.client
import json
import re
import shutil
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import openai
import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.store.artifacts import SignedLinks
from fakes import KEY, LiveServer, assert_error, make_package, wait_for
from seeded_platform import open_world, seed

_TAIL = b"\r\n--x--\r\n"


def _upload(server, *files, **fields):
    parts = [("files", (name, contents)) for name, contents in files]
    return server.client.post("/api/v1/files", files=parts, data=fields)


def _stored(server):
    return {path for path in (server.data_dir / "artifacts").rglob("*") if path.is_file()}


def test_an_upload_can_be_seen_fetched_and_deleted(live_server):
    contents = b"PK\x03\x04" + bytes(range(256)) * 5000
    uploaded = _upload(live_server, ("train_data.zip", contents), purpose="fine-tune", descriptions="narrator A")
    assert set(uploaded.json()) == {"request_id", "data"}
    assert uploaded.json()["data"]["failed_uploads"] == []
    (entry,) = uploaded.json()["data"]["uploaded_files"]
    assert entry["name"] == "train_data.zip"
    url = f"/api/v1/files/{entry['file_id']}"
    file = live_server.client.get(url).json()["data"]
    assert (file["size"], file["md5"]) == (len(contents), hashlib.md5(contents).hexdigest())
    assert (file["description"], file["purpose"]) == ("narrator A", "fine-tune")
    time.strptime(file["gmt_create"], "%Y-%m-%d %H:%M:%S")
    assert httpx.get(file["url"]).content == contents, "the link needs no key"
    assert set(live_server.client.delete(url).json()) == {"request_id"}
    assert_error(live_server.client.get(url), 400, "InvalidParameter", "File not found.")
    assert_error(live_server.client.delete(url), 400, "InvalidParameter", "File not found.")
    assert httpx.get(file["url"]).status_code == 404


def test_a_link_serves_ranges(live_server):
    _upload(live_server, ("a.zip", b"0123456789"))
    url = live_server.client.get("/api/v1/files").json()["data"]["files"][0]["url"]
    answer = httpx.get(url, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, b"234", "bytes 2-4/10")


def test_a_changed_or_old_link_is_refused(live_server):
    _upload(live_server, ("a.zip", b"0123456789"))
    url = live_server.client.get("/api/v1/files").json()["data"]["files"][0]["url"]
    assert_error(httpx.get(url[:-3]), 403, "AccessDenied", "signature")
    assert_error(httpx.get(url.partition("?")[0]), 403, "AccessDenied")


def test_a_link_expires(live_server):
    _upload(live_server, ("a.zip", b"0123456789"))
    url = live_server.client.get("/api/v1/files").json()["data"]["files"][0]["url"]
    key = url.partition("/artifacts/")[2].partition("?")[0]
    links = SignedLinks((live_server.data_dir / "secret").read_bytes())
    for expires_at, status in [(int(time.time()) + 60, 200), (int(time.time()) - 1, 403)]:
        assert httpx.get(live_server.url + links.sign(key, expires_at)).status_code == status


def test_the_purpose_need_not_be_told(live_server):
    """The official SDK never sends it, nor a type for the file."""
    file_id = _upload(live_server, ("a.zip", b"x")).json()["data"]["uploaded_files"][0]["file_id"]
    assert live_server.client.get(f"/api/v1/files/{file_id}").json()["data"]["purpose"] == "fine-tune"


def test_several_files_have_their_descriptions_in_order(live_server):
    parts = [("files", ("a.zip", b"a")), ("files", ("b.zip", b"b"))]
    answer = live_server.client.post("/api/v1/files", files=parts, data={"descriptions": ["first", "second"]})
    assert [file["name"] for file in answer.json()["data"]["uploaded_files"]] == ["a.zip", "b.zip"]
    files = live_server.client.get("/api/v1/files?page_size=2").json()["data"]["files"]
    assert [(file["name"], file["description"]) for file in files] == [("b.zip", "second"), ("a.zip", "first")]


def test_a_file_that_is_too_large_is_told_apart_and_leaves_nothing(tmp_path):
    server = LiveServer(tmp_path, max_upload_bytes=1000).start()
    try:
        data = _upload(server, ("big.zip", b"x" * 1001), ("small.zip", b"x" * 1000)).json()["data"]
        assert [file["name"] for file in data["uploaded_files"]] == ["small.zip"]
        assert [(file["name"], file["code"]) for file in data["failed_uploads"]] == [("big.zip", "BadRequest.TooLarge")]
        assert len(_stored(server)) == 1
    finally:
        server.stop()


def test_only_the_last_part_of_a_file_name_counts(live_server):
    names = _upload(live_server, ("../../etc/a.zip", b"x"), ("C:\\data\\b.zip", b"x")).json()["data"]["uploaded_files"]
    assert [file["name"] for file in names] == ["a.zip", "b.zip"]


@pytest.mark.parametrize(
    ("content_type", "body", "part"),
    [
        ("application/json", b"{}", "multipart"),
        ("multipart/form-data", b"", "boundary"),
        ("multipart/form-data; boundary=x", b"rubbish", "multipart"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n1', "broke off"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\na\r\n--x--\r\n', "named files"),
    ],
)  # fmt: skip
def test_a_malformed_upload_is_refused_and_leaves_nothing(live_server, content_type, body, part):
    before = _stored(live_server)
    answer = live_server.client.post("/api/v1/files", content=body, headers={"Content-Type": content_type})
    assert_error(answer, 400, "InvalidParameter", part)
    assert _stored(live_server) == before


def test_an_upload_that_breaks_off_leaves_nothing(live_server):
    before = _stored(live_server)
    connection = _send_half_an_upload(live_server)
    wait_for(lambda: _stored(live_server) != before, 30, "the upload to arrive in part")
    connection.close()
    wait_for(lambda: _stored(live_server) == before, 30, "what arrived to be removed")
    assert live_server.client.get("/api/v1/files").status_code == 200


def test_a_server_that_is_killed_in_an_upload_leaves_nothing(tmp_path):
    server = LiveServer(tmp_path).start()
    connection = _send_half_an_upload(server)
    wait_for(lambda: _stored(server) != set(), 60, "the upload to arrive in part")
    server.kill()
    connection.close()
    # and what a crash between the bytes and their row leaves
    orphan = server.data_dir / "artifacts" / "files" / "5b0f7f6e-6c0a-4a2b-9a57-7b6a1c1f2e3d"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    server.start()
    try:
        assert _stored(server) == set()
    finally:
        server.stop()


def _send_half_an_upload(server):
    connection = _begin_post(server, 99_999_999)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n'
    connection.sendall(head + b"x" * (3 << 20))
    return connection


def _begin_post(server, size):
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port))
    head = (
        f"POST /api/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        f"Content-Length: {size}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def test_a_gigabyte_needs_no_memory(tmp_path):
    server = LiveServer(tmp_path).start()
    try:
        server.upload()  # what a first upload loads is not counted
        before = _peak_memory_kib(server)
        answer = _send_a_gigabyte_of_zeros(server)
        assert _peak_memory_kib(server) - before < 64 << 10
        (uploaded,) = answer["data"]["uploaded_files"]
        file = server.client.get(f"/api/v1/files/{uploaded['file_id']}").json()["data"]
        assert (file["size"], file["md5"]) == (1 << 30, "cd573cfaace07e7949bc0c46028904ff")
        server.client.delete(f"/api/v1/files/{uploaded['file_id']}")
    finally:
        server.stop()


def _send_a_gigabyte_of_zeros(server):
    """By a bare socket, which costs the least: the two processors are for the server."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="train_data.zip"\r\n\r\n'
    with _begin_post(server, len(head) + (1 << 30) + len(_TAIL)) as connection:
        connection.sendall(head)
        piece = bytes(1 << 20)
        for _ in range(1 << 10):
            connection.sendall(piece)
        connection.sendall(_TAIL)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return json.loads(answer.read())


def _peak_memory_kib(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


# ---- limits, in this process


def _post(world, *files, **fields):
    parts = [("files", (name, contents)) for name, contents in files]
    return world.client().post("/api/v1/files", files=parts, data=fields)


def _bytes_kept(world):
    return {path for path in (world.platform.settings.data_dir / "artifacts").rglob("*") if path.is_file()}


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(**settings):
        worlds.append(open_world(tmp_path, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def test_a_workspace_that_is_full_of_bytes_is_told_how_full(make_world):
    world = make_world(max_workspace_bytes=1000)
    data = _post(world, ("a.zip", b"x" * 600), ("b.zip", b"x" * 401), ("c.zip", b"x" * 400)).json()["data"]
    assert [file["name"] for file in data["uploaded_files"]] == ["a.zip", "c.zip"]
    message = "Out of space, 600 B of 1000 B storage space has been used."
    assert data["failed_uploads"] == [{"name": "b.zip", "code": "BadRequest.TooLarge", "message": message}]
    assert len(_bytes_kept(world)) == 2


def test_a_workspace_with_too_many_files_is_told_how_many(make_world):
    world = make_world(max_files=2)
    _post(world, ("a.zip", b"x"))
    data = _post(world, ("b.zip", b"x"), ("c.zip", b"x")).json()["data"]
    assert [file["name"] for file in data["uploaded_files"]] == ["b.zip"]
    message = "Out of number, 2 of 2 files has been uploaded."
    assert data["failed_uploads"] == [{"name": "c.zip", "code": "BadRequest.TooMany", "message": message}]
    world.client().delete(f"/api/v1/files/{data['uploaded_files'][0]['file_id']}")
    assert _post(world, ("c.zip", b"x")).json()["data"]["failed_uploads"] == []


def test_limits_are_of_a_workspace(make_world):
    world = make_world(max_files=1)
    _post(world, ("a.zip", b"x"))
    world.platform.workspaces.create("beta", "beta", datetime.now(UTC))
    _, secret = world.platform.api_keys.create("b", "beta", datetime.now(UTC))
    answer = world.client(secret).post("/api/v1/files", files={"files": ("b.zip", b"x")})
    assert answer.json()["data"]["failed_uploads"] == []


def test_two_uploads_at_once_do_not_share_the_last_place(make_world):
    """Both found room when they began; the one that is kept last finds none."""
    world = make_world(max_files=1)
    files, writers = world.platform.files, [world.platform.artifacts.create() for _ in range(2)]
    values = {
        "description": "",
        "purpose": "fine-tune",
        "workspace_id": "ops",
        "api_key_id": 1,
        "now": datetime.now(UTC),
    }
    files.add(writers[0], name="a.zip", **values)
    with pytest.raises(InvalidParameter, match="Out of number"):
        files.add(writers[1], name="b.zip", **values)
    writers[1].discard()
    assert len(_bytes_kept(world)) == 1


def test_a_disk_that_is_nearly_full_takes_nothing_and_says_so(make_world):
    world = make_world(min_free_disk_bytes=1 << 60)
    data = _post(world, ("a.zip", b"x")).json()["data"]
    assert data["uploaded_files"] == []
    (failed,) = data["failed_uploads"]
    assert (failed["name"], failed["code"]) == ("a.zip", "BadRequest.TooLarge")
    assert re.fullmatch(r"Out of space, \d+ B of -?\d+ B storage space has been used\.", failed["message"])
    answer = world.client().post("/compatible-mode/v1/files", files={"file": ("a", b"x")}, data={"purpose": "batch"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadRequest.TooLarge")
    assert _bytes_kept(world) == set()


def test_a_disk_that_fills_up_in_an_upload_fails_what_does_not_fit(make_world, monkeypatch):
    world = make_world()
    usage, num_calls = shutil.disk_usage, 0

    def shrinking(path):
        nonlocal num_calls
        num_calls += 1
        found = usage(path)
        return found._replace(free=found.free if num_calls == 1 else 1000)

    monkeypatch.setattr("cosyforge.store.artifacts.shutil.disk_usage", shrinking)
    data = _post(world, ("a.zip", b"x"), ("b.zip", b"x")).json()["data"]
    assert [file["name"] for file in data["uploaded_files"]] == ["a.zip"]
    assert [(file["name"], file["code"]) for file in data["failed_uploads"]] == [("b.zip", "BadRequest.TooLarge")]
    assert len(_bytes_kept(world)) == 1


@pytest.mark.parametrize("purpose", ["fine_tune", "", "x" * 500])
def test_an_unknown_purpose_is_refused(make_world, purpose):
    world = make_world()
    assert_error(_post(world, ("a.zip", b"x"), purpose=purpose), 400, "InvalidParameter", "purpose", "fine-tune")
    assert _bytes_kept(world) == set()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("plain name.zip", "plain name.zip"),
        ("录音.zip", "录音.zip"),
        ("a\x01b.zip", "a_b.zip"),
        ("x" * 300 + ".zip", "x" * 251 + ".zip"),
        ('qu"ote.zip', 'qu"ote.zip'),
    ],
)
def test_a_download_bears_the_name_and_the_type_of_its_upload(make_world, given, kept):
    world = make_world()
    quoted = given.replace('"', '\\"').encode()
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + quoted + b'"\r\n\r\nPK\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    (uploaded,) = world.client().post("/api/v1/files", content=body, headers=headers).json()["data"]["uploaded_files"]
    assert uploaded["name"] == kept
    url = world.client().get(f"/api/v1/files/{uploaded['file_id']}").json()["data"]["url"]
    answer = world.client(None).get(url)
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith("attachment")
    assert quote(kept) in disposition or f'"{kept}"' in disposition
    assert disposition.isprintable()
    assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == ("application/zip", "nosniff")


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.zip", "application/zip"),
        ("a.WAV", "audio/wav"),
        ("a.mp3", "audio/mpeg"),
        ("a.html", "application/octet-stream"),
    ],
)
def test_media_types_do_not_depend_on_the_machine(make_world, name, media_type):
    world = make_world()
    (uploaded,) = _post(world, (name, b"x")).json()["data"]["uploaded_files"]
    url = world.client().get(f"/api/v1/files/{uploaded['file_id']}").json()["data"]["url"]
    assert world.client(None).get(url).headers["content-type"] == media_type


def test_a_file_in_use_can_be_deleted_and_the_job_keeps_its_copy(make_world):
    world = make_world()
    seed(world)
    own = world.client(world.keys["own"])
    assert own.delete(f"/api/v1/files/{world.ids['file_id']}").status_code == 200
    package = world.platform.artifacts.local_path(f"packages/{world.ids['waiting_job_id']}.zip")
    assert package.read_bytes() == b"the bytes of alpha"


def test_a_part_with_endless_headers_or_fields_is_refused(make_world):
    world = make_world()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    long_header = (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\nX-Long: ' + b"y" * 20_000 + b"\r\n\r\n1\r\n--x--\r\n"
    )
    answer = world.client().post("/api/v1/files", content=long_header, headers=headers)
    assert_error(answer, 400, "InvalidParameter", "header")
    field = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"y" * 70_000 + b"\r\n--x--\r\n"
    answer = world.client().post("/api/v1/files", content=field, headers=headers)
    assert_error(answer, 400, "InvalidParameter", "purpose", "too long")


# ---- OpenAI's shapes


@pytest.fixture(scope="module")
def openai_client(live_server):
    return openai.OpenAI(api_key=KEY, base_url=f"{live_server.url}/compatible-mode/v1", max_retries=0)


def test_the_official_openai_client_uploads_lists_reads_and_deletes(openai_client):
    made = openai_client.files.create(file=("train_data.zip", b"PK\x03\x04data"), purpose="fine-tune")
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", 8, "train_data.zip", "fine-tune")
    assert made.id.startswith("file-fe-")
    assert abs(made.created_at - time.time()) < 120
    assert openai_client.files.retrieve(made.id) == made
    assert openai_client.files.list(limit=1).data == [made], "newest first"
    assert openai_client.files.content(made.id).read() == b"PK\x03\x04data"
    deleted = openai_client.files.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    with pytest.raises(openai.NotFoundError) as error:
        openai_client.files.retrieve(made.id)
    assert (error.value.body["code"], error.value.body["type"]) == ("NotFound", "not_found_error")


def test_the_pages_of_openais_client_cover_everything_once(openai_client):
    made = [openai_client.files.create(file=(f"{number}.jsonl", b"{}"), purpose="batch").id for number in range(5)]
    listed = [file.id for file in openai_client.files.list(limit=2, order="asc", purpose="batch")]
    assert listed == made


def test_an_id_of_openais_form_trains_a_job(live_server, openai_client, tmp_path):
    with open(make_package(tmp_path / "train_data.zip"), "rb") as file:
        made = openai_client.files.create(file=file, purpose="fine-tune")
    assert live_server.create_job(made.id)["training_datasets"][0]["file_id"] == made.id
    assert live_server.client.get(f"/api/v1/files/{made.id}").json()["data"]["name"] == "train_data.zip"


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ({"file": ("a", b"x")}, {"purpose": "fine-tune", "descriptions": "x"}, "descriptions"),
        ({"files": ("a", b"x")}, {"purpose": "fine-tune"}, "files"),
        ({"other": ("a", b"x"), "file": ("a", b"x")}, {"purpose": "fine-tune"}, "other"),
        ({"file": ("a", b"x")}, {}, "purpose"),
        ({"file": ("a", b"x")}, {"purpose": "fun"}, "purpose"),
        ({}, {"purpose": "fine-tune"}, None),
    ],
)
def test_what_openais_form_may_not_have_is_refused_in_its_shape(live_server, files, fields, param):
    before = _stored(live_server)
    answer = live_server.client.post("/compatible-mode/v1/files", files=files or None, data=fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "InvalidParameter", param)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert _stored(live_server) == before


def test_a_wrong_key_is_an_error_in_openais_shape(live_server):
    client = openai.OpenAI(api_key="sk-wrong", base_url=f"{live_server.url}/compatible-mode/v1", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="Invalid API-key provided"):
        client.files.list()
