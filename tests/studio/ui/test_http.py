"""The studio over raw HTTP: routes, named endpoints, and what hostile clients get."""

from __future__ import annotations

import contextlib
import io
import json

import httpx
import pytest
from PIL import Image

from studio.ui import answers
from tests.studio.conftest import finished
from tests.studio.painters import WordMeters

GOOD = {"prompt": "a red ball", "width": 128, "height": 64, "seed": 3, "steps": 2}


def paint(served, **changes):
    answer = served.http.post("/studio/images", json={**GOOD, **changes})
    assert answer.status_code == 202, answer.text
    name = answer.json()["job"]
    finished(served.studio, name)
    return name


def test_it_says_that_it_lives(served):
    assert served.http.get("/healthz").json() == {"status": "ok"}


def test_a_job_is_followed_to_its_picture(served):
    name = paint(served)
    job = served.http.get(f"/studio/jobs/{name}").json()
    assert (job["state"], job["is_final"], job["image_id"], job["plan"]) == ("done", True, name, [[128, 64]])
    picture = served.http.get(f"/studio/pictures/{name}").json()
    assert picture["request"]["seed"] == 3 and picture["steps"] == 2
    assert picture["shell"].startswith("python -m studio image 'a red ball' --size 128x64 --seed 3 --steps 2")
    compile(picture["python"], "copied", "exec")


def test_files_are_served_byte_for_byte(served):
    name = paint(served)
    stored = served.studio.gallery.get(name)
    answer = served.http.get(f"/studio/pictures/{name}.png")
    assert answer.content == stored.path.read_bytes() and answer.headers["content-type"] == "image/png"
    assert "tessera" in Image.open(io.BytesIO(answer.content)).info
    download = served.http.get(f"/studio/pictures/{name}.png?download=1").headers["content-disposition"]
    assert download == 'attachment; filename="a-red-ball-3.png"'
    assert served.http.get(f"/studio/pictures/{name}/thumbnail").content == stored.thumbnail.read_bytes()
    assert served.http.get(f"/studio/pictures/{name}/zoom").content == stored.path.read_bytes()


def test_sentences_are_told_of_where_there_are_eyes(served):
    name = paint(served)
    answer = served.http.get(f"/studio/pictures/{name}/sentences")
    assert (answer.status_code, answer.json()["sentences"]) == (200, []), "this studio has no eyes"
    assert served.http.get("/studio/pictures/nothing/sentences").status_code == 404


def test_a_long_prompt_is_painted_cut_short_on_demand(served, monkeypatch):
    monkeypatch.setattr(served.studio, "meters", WordMeters())
    short, long = (
        paint(served, prompt="a red ball"),
        paint(served, prompt="a red ball and a blue cat under a tree"),
    )
    facts = [served.http.get(f"/studio/pictures/{name}").json() for name in (short, long)]
    assert [fact["cut_at"] for fact in facts] == [0, 8]
    refused = served.http.post(f"/studio/pictures/{short}/cut")
    assert (refused.status_code, refused.json()["kind"]) == (409, "conflict")
    answer = served.http.post(f"/studio/pictures/{long}/cut")
    assert answer.status_code == 202
    cut = answer.json()["job"]
    finished(served.studio, cut)
    made = served.http.get(f"/studio/pictures/{cut}").json()
    assert made["request"] == {**facts[1]["request"], "cut_prompt": True} and made["cut_at"] == 0
    assert "--cut-prompt" in made["shell"] and "cut_prompt=True" in made["python"]
    assert served.painter.painted[-1][0] == "a red ball and a blue"
    assert served.http.post(f"/studio/pictures/{long}/cut").json()["job"] == cut, "painted once"


def test_seams_are_measured_where_a_picture_has_tiles(served):
    small, large = paint(served), paint(served, width=1024, height=1024)
    facts = [served.http.get(f"/studio/pictures/{name}").json() for name in (small, large)]
    assert [fact["has_borders"] for fact in facts] == [False, True]
    assert facts[1]["guides"] == [], "painted in one stage"
    seams = served.http.get(f"/studio/pictures/{large}/seams").json()
    # flat fields of colour have edges somewhere, and no row and column at once
    assert seams["worst"] >= 1 and (seams["column"] is None) != (seams["row"] is None)
    assert served.http.get("/studio/pictures/nothing/seams").status_code == 404


def test_the_overview_lists_pictures_newest_first(served):
    names = [paint(served, seed=seed) for seed in (1, 2)]
    overview = served.http.get("/studio/overview").json()
    assert [picture["id"] for picture in overview["pictures"][:2]] == names[::-1]
    assert overview["total"] >= 2
    assert overview["status"] == {
        "state": "ready", "model": "storybook-flux", "text": "ready", "rooms": ["kernels"],
    }  # fmt: skip


def test_the_overview_says_what_kind_of_work_goes_on(served):
    kinds = ({"picture", "encode"}, {"selftest"}, set())
    said = [answers._status(served.studio, running)["text"] for running in kinds]
    assert said == ["painting", "working", "ready"]


def test_strangers_on_a_shared_studio_are_kept_apart_by_a_cookie(shared):
    mine, other = (shared.browser() for _ in range(2))
    for browser in (mine, other):
        cookie = browser.get("/").headers["set-cookie"]
        assert cookie.startswith("tessera_visitor=") and "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert "set-cookie" not in browser.get("/").headers, "once is enough"
    name = mine.post("/studio/images", json=GOOD).json()["job"]
    finished(shared.studio, name)
    paths = [
        f"/studio/jobs/{name}",
        *(f"/studio/pictures/{name}{end}" for end in ("", ".png", "/thumbnail", "/zoom")),
    ]
    assert {mine.get(path).status_code for path in paths} == {200}
    assert {other.get(path).status_code for path in paths} == {404}
    for action in (
        f"jobs/{name}/cancel",
        f"jobs/{name}/retry",
        f"jobs/{name}/forget",
        f"pictures/{name}/delete",
    ):
        assert other.post(f"/studio/{action}").status_code == 404, action
    assert [picture["id"] for picture in mine.get("/studio/overview").json()["pictures"]] == [name]
    assert other.get(f"/studio/overview?mine={name},nonsense").json()["pictures"] == []
    script = httpx.Client(
        base_url=mine.base_url, headers={"x-tessera-visitor": mine.cookies["tessera_visitor"]}
    )
    with script:
        assert script.get(f"/studio/jobs/{name}").status_code == 200


def test_events_of_the_page_and_endpoints_know_the_visitor(shared):
    mine, other = (shared.browser() for _ in range(2))
    mine.get("/"), other.get("/")
    event, data = shared.call("image", ["a blue ball", 64, 64, 9, 2, "storybook", None, None], mine)
    assert event == "complete", data
    name = json.loads(data)[0]["id"]
    assert shared.studio.gallery.get(name).owner != ""
    assert shared.call("job", [name], mine)[0] == "complete"
    assert "no such job" in shared.call("job", [name], other)[1]


def test_a_deleted_picture_comes_back(served):
    name = paint(served)
    assert served.http.post(f"/studio/pictures/{name}/delete").status_code == 200
    assert served.http.get(f"/studio/pictures/{name}").status_code == 404
    assert served.http.post(f"/studio/pictures/{name}/restore").json() == {"id": name}
    assert served.http.get(f"/studio/pictures/{name}.png").status_code == 200
    assert served.http.post(f"/studio/jobs/{name}/forget").status_code == 200
    assert served.http.get(f"/studio/jobs/{name}").status_code == 404
    assert served.http.get(f"/studio/pictures/{name}").status_code == 200, "the picture stays"


def test_cancel_and_retry(served):
    import threading

    served.painter.gates["paint"] = threading.Event()
    try:
        name = served.http.post("/studio/images", json=GOOD).json()["job"]
        assert served.painter.reached["paint"].wait(5)
        assert served.http.post(f"/studio/jobs/{name}/cancel").json() == {"cancelled": True}
        assert finished(served.studio, name).state == "cancelled"
        assert served.http.post(f"/studio/jobs/{name}/cancel").json() == {"cancelled": False}
    finally:
        served.painter.gates.clear()
    assert served.http.post(f"/studio/jobs/{name}/retry").json() == {"job": name}
    assert finished(served.studio, name).state == "done"
    assert served.http.post(f"/studio/jobs/{name}/retry").status_code == 409


def test_the_forecast_route(served):
    answer = served.http.get("/studio/forecast?width=1024&height=512").json()
    assert answer["stages"] == [[1024, 512]] and answer["fits"] is True
    for query in (
        "width=1024",
        "width=nan&height=64",
        "width=1e9&height=64",
        "width=0&height=0",
        f"width={'9' * 20}&height={'9' * 20}",
        "width=100&height=100",
    ):
        assert served.http.get(f"/studio/forecast?{query}").status_code == 400, query


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"width": 0, "height": 0}, 400), ({"width": 100, "height": 100}, 400), ({"width": 1e9}, 400),
        ({"width": 1_000_000_000}, 400), ({"width": float("nan")}, 400), ({"height": float("inf")}, 400),
        ({"width": True}, 400), ({"width": "128"}, 400), ({"width": None}, 400), ({"width": [128]}, 400),
        ({"steps": float("nan")}, 400), ({"steps": 0}, 400), ({"seed": -1}, 400), ({"seed": 2**80}, 400),
        ({"prompt": ""}, 400), ({"prompt": 7}, 400), ({"prompt": "x" * 900_000}, 413),
        ({"model": "nonsense"}, 404),
        ({"model": "../../etc"}, 400), ({"style": "No such style"}, 400), ({"extra": 1}, 400),
    ],
)  # fmt: skip
def test_hostile_values_get_one_sentence_and_no_job(served, changes, status):
    before = len(served.studio.jobs(500))
    body = json.dumps({**GOOD, **changes})
    answer = served.http.post("/studio/images", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    sentence = answer.json()["error"]
    assert 10 < len(sentence) < 400 and "\n" not in sentence and "Traceback" not in sentence
    assert len(served.studio.jobs(500)) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"[" * 100_000, b"\xff\xfe"])
def test_bodies_that_are_no_request_are_refused(served, body):
    answer = served.http.post("/studio/images", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


def test_a_form_of_another_site_can_not_submit(served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = served.http.post("/studio/images", content=json.dumps(GOOD), headers={"content-type": kind})
        assert answer.status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "/studio/jobs/../../etc/passwd", "/studio/jobs/%2e%2e%2f", "/studio/pictures/..%2f..%2fsecret.png",
        "/studio/pictures/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/studio/pictures/01ARZ3NDEKTSV4RRFFQ69G5FAV.png",
        "/studio/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/preview", "/studio/assets/../../app.py",
        "/studio/assets/%2e%2e/%2e%2e/app.py", "/studio/assets/css",
    ],
)  # fmt: skip
def test_nothing_outside_is_served(served, path):
    assert served.http.get(path, follow_redirects=True).status_code == 404


def test_files_of_the_project_and_the_data_folder_are_not_served(served):
    name = paint(served)
    for path in ("app.py", str(served.studio.gallery.get(name).path), "/etc/passwd", "studio/settings.py"):
        assert served.http.get(f"/gradio_api/file={path}").status_code in (403, 404), path


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "a b"]
)
def test_foreign_host_names_are_refused(served, host):
    assert served.http.get("/healthz", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:18860", "127.0.0.1", "[::1]:80", "192.168.1.20:7860"]
)
def test_own_names_and_addresses_are_answered(served, host):
    assert served.http.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://evil.example:18860"]
)
@pytest.mark.parametrize(
    "path", ["/studio/images", "/gradio_api/upload", "/gradio_api/call/image", "/gradio_api/queue/join"]
)
def test_writes_from_other_sites_are_refused(served, origin, path):
    answer = served.http.post(path, headers={"origin": origin}, json={"data": []})
    assert answer.status_code == 403


def test_a_write_from_the_page_itself_is_taken(served):
    own = str(served.http.base_url).rstrip("/")
    answer = served.http.post("/studio/images", json=GOOD, headers={"origin": own})
    assert answer.status_code == 202
    finished(served.studio, answer.json()["job"])


def test_names_of_a_proxy_are_answered_and_may_write(shared, served):
    name = {"host": "studio.example.org", "origin": "https://studio.example.org"}
    assert shared.http.get("/healthz", headers={"host": name["host"]}).status_code == 200
    for headers in (name, {**name, "host": "10.0.0.7:7860"}):
        answer = shared.http.post("/studio/images", json=GOOD, headers=headers)
        assert answer.status_code == 202
        finished(shared.studio, answer.json()["job"])
    for origin in ("https://evil.example", "https://studio.example.org.evil.example"):
        headers = {**name, "origin": origin}
        assert shared.http.post("/studio/images", json=GOOD, headers=headers).status_code == 403
    assert served.http.get("/healthz", headers={"host": name["host"]}).status_code == 400


def test_large_bodies_are_refused_whether_announced_or_not(served):
    big = b'{"prompt": "' + b"x" * 1_100_000 + b'"}'
    headers = {"content-type": "application/json"}
    assert served.http.post("/studio/images", content=big, headers=headers).status_code == 413

    def pieces():
        for start in range(0, len(big), 50_000):
            yield big[start : start + 50_000]

    for path in ("/studio/images", "/gradio_api/queue/join"):
        # the refusal may close the connection while the rest is still on its way
        with contextlib.suppress(httpx.WriteError):
            assert served.http.post(path, content=pieces(), headers=headers).status_code == 413
    assert served.http.get("/healthz").status_code == 200


def test_small_chunked_bodies_arrive_whole(served):
    body = json.dumps(GOOD).encode()
    answer = served.http.post(
        "/studio/images", content=iter([body[:10], body[10:]]), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 202
    finished(served.studio, answer.json()["job"])


def test_every_answer_forbids_guessing_its_type(served):
    for path in ("/", "/healthz", "/studio/assets/css/tokens.css", "/config"):
        headers = served.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert "default-src 'self'" in headers["content-security-policy"]


def test_gradios_own_side_doors_are_shut(served):
    assert served.http.get("/monitoring").status_code == 403
    for path in ("/gradio_api/runs", "/openapi.json", "/docs", "/gradio_api/mcp/"):
        assert served.http.get(path).status_code == 404, path


def test_the_named_endpoint_paints(served):
    event, data = served.call("image", ["a blue ball", 128, 64, 9, 2, "storybook", None, None])
    assert event == "complete", data
    answer = json.loads(data)[0]
    assert answer["request"]["seed"] == 9 and answer["seconds"]["paint"] >= 0
    assert served.http.get(answer["url"]).content[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "x" * 400_000}, "prompt: given 400,000 characters"),
        ({"width": 0, "height": 0}, "width: given 0"),
        ({"width": 100, "height": 100}, "width: given 100"),
        ({"width": 1_000_000_000}, "width: given 1000000000"),
        ({"width": True}, "width: given True"),
        ({"model": "nonsense"}, "model: given 'nonsense'"),
        ({"style": "<b>"}, "style: given '<b>'"),
    ],
)
def test_the_named_endpoint_refuses_in_one_sentence(served, changes, sentence):
    event, data = served.call(
        "image",
        list(
            {
                **GOOD,
                "model": "storybook",
                "style": None,
                **changes,
                "tenor": None,
                "cut_prompt": False,
            }.values()
        ),
    )
    assert event == "error" and sentence in json.loads(data)["error"]


def test_not_a_number_is_refused_by_the_named_endpoint(served):
    event, data = served.call("image", b'{"data": ["a red ball", NaN, 64, 0, 2, "storybook", null, null]}')
    assert event == "error" and "width: given nan" in json.loads(data)["error"]


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (0, "x" * 30_000, "prompt: given 30,000 characters"),
        (1, 0, "width: given 0"),
        (3, -1, "less than minimum value 0"),  # the one that Gradio itself checks
    ],
)
def test_a_private_event_checks_as_strictly(served, place, value, sentence):
    (submit,) = [
        event
        for event in served.page.fns.values()
        if event.api_visibility == "private" and event.name == "_submit"
    ]
    data = ["a red ball", 64, 64, 0, "None", 4, "storybook-flux", True, 0, True]
    data[place] = value
    body = {"data": data, "fn_index": submit._id, "session_hash": f"session-{place}"}
    assert served.http.post("/gradio_api/queue/join", json=body).status_code == 200
    stream = served.http.get(f"/gradio_api/queue/data?session_hash=session-{place}", timeout=20).text
    completed = next(line for line in stream.splitlines() if "process_completed" in line)
    error = json.loads(completed.removeprefix("data: "))["output"]["error"]
    assert sentence in error


def test_endpoints_forecast_and_job(served):
    event, data = served.call("forecast", [256, 128, None, "storybook"])
    assert event == "complete" and json.loads(data)[0]["stages"] == [[256, 128]]
    name = paint(served)
    event, data = served.call("forecast", ["256", 128, None, "storybook"])
    assert event == "error" and "width: given '256'" in json.loads(data)["error"]
    event, data = served.call("job", [name])
    assert event == "complete" and json.loads(data)[0]["state"] == "done"
    event, data = served.call("job", ["nonsense"])
    assert event == "error" and json.loads(data)["error"] == "There is no such job."
