"""A name nobody has costs one short look at the hub, and the message names what is near."""

import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import HfApi

from tl_neuron_attr.model import model_names
from tl_neuron_attr.model.model_names import near_names, require_model_on_hub


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine: what it answers, and every path it was asked for."""

    class Hub(BaseHTTPRequestHandler):
        answer = (404, {"X-Error-Code": "RepoNotFound"})
        asked: list[str] = []  # noqa: RUF012  # one hub per test

        def do_GET(self):
            self.asked.append(self.path)
            status, headers = self.answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            body = b'{"id": "own/er", "_id": "0"}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(model_names, "HfApi", partial(HfApi, endpoint=f"http://127.0.0.1:{server.server_port}"))
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_name_the_hub_lacks_is_asked_for_once_and_refused_in_three_lines(hub):
    with pytest.raises(FileNotFoundError) as caught:
        require_model_on_hub("gpt2-larg")
    assert hub.asked == ["/api/models/gpt2-larg"]
    reason, near, choices = str(caught.value).splitlines()
    assert "'gpt2-larg' could not be loaded: the Hugging Face hub has no such model" in reason
    assert near.startswith("did you mean gpt2-large")
    assert "a .gguf file, a directory" in choices


@pytest.mark.parametrize(
    "answer", [(200, {}), (403, {"X-Error-Code": "GatedRepo"}), (429, {}), (503, {})], ids=lambda answer: answer[0]
)
def test_what_is_not_an_unknown_name_is_left_to_the_loader(hub, answer):
    hub.answer = answer
    require_model_on_hub("own/er")
    assert len(hub.asked) == 1


def test_an_alias_is_looked_up_by_the_name_the_hub_knows(hub):
    hub.answer = (200, {})
    require_model_on_hub("pythia-70m")
    assert hub.asked == ["/api/models/EleutherAI/pythia-70m"]


def test_a_hub_out_of_reach_is_given_up_within_its_patience(monkeypatch):
    monkeypatch.setattr(model_names, "HfApi", partial(HfApi, endpoint="http://127.0.0.1:9"))  # nobody listens there
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match="hub cannot be reached: ConnectError"):
        require_model_on_hub("own/er")
    assert time.perf_counter() - start < model_names._PATIENCE


def test_a_model_in_the_local_cache_needs_no_look(hub, monkeypatch):
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    require_model_on_hub("own/er")
    assert hub.asked == []


@pytest.mark.parametrize(
    "name, nearest",
    [("gemma3-27m", "gemma3-270m"), ("smolm2-135m", "smollm2-135m"), ("gpt2_xl", "gpt2-xl"), ("dem", "demo")],
)
def test_the_nearest_name_comes_first(name, nearest):
    assert near_names(name)[0] == nearest


@pytest.mark.parametrize("name", ["gpt2", "/no/such/folder", "zzzz"])
def test_a_right_name_and_one_like_nothing_have_none_near(name):
    assert near_names(name) == []
