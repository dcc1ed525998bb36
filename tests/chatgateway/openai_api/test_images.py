from __future__ import annotations

import base64

import pytest

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.images import MAX_IMAGE_BYTES, checked_url

PART = "messages.0.content.1"
PIXELS = base64.b64encode(b"not really a picture").decode()


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (f"data:image/png;base64,{PIXELS}", f"data:image/png;base64,{PIXELS}"),
        (f"data:image/jpeg;base64,{PIXELS}", f"data:image/jpeg;base64,{PIXELS}"),
        (f"data:image/gif;base64,{PIXELS}", f"data:image/gif;base64,{PIXELS}"),
        (f"data:image/webp;base64,{PIXELS}", f"data:image/webp;base64,{PIXELS}"),
        (f"data:image/jpg;base64,{PIXELS}", f"data:image/jpeg;base64,{PIXELS}"),
        (f"DATA:Image/PNG;charset=utf-8;BASE64,{PIXELS}", f"data:image/png;base64,{PIXELS}"),
    ],
)
def test_data_urls_of_images_are_accepted_and_spelled_alike(url: str, kept: str) -> None:
    assert checked_url(url, part=PART, accepts_remote=False) == kept


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:,x",
        f"data:image/png,{PIXELS}",
        f"data:image/svg+xml;base64,{PIXELS}",
        f"data:text/html;base64,{PIXELS}",
        f"data:;base64,{PIXELS}",
        "data:image/png;base64,",
        "data:image/png;base64,AAA",
        "data:image/png;base64,A===",
        "data:image/png;base64,AA=A",
        "data:image/png;base64,====",
        "data:image/png;base64,AA_-",
        "data:image/png;base64,AAAA\nAAA",
        "data:image/png;base64,AAAé",
    ],
)
def test_a_broken_data_url_is_refused_where_the_part_stands(url: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        checked_url(url, part=PART, accepts_remote=True)
    assert (refusal.value.param, refusal.value.code) == (PART, "unsupported_content")


def test_an_image_may_be_twenty_mebibytes_and_no_more() -> None:
    largest = "A" * (MAX_IMAGE_BYTES // 3 * 4) + "AAA="  # 2 bytes: MAX_IMAGE_BYTES leaves 2 over when cut in threes
    assert checked_url(f"data:image/png;base64,{largest}", part=PART, accepts_remote=False)
    with pytest.raises(InvalidRequest, match="larger than 20 MiB"):
        checked_url(f"data:image/png;base64,{largest[:-4]}AAAA", part=PART, accepts_remote=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "https://EXAMPLE.com./cat.png?size=1#x",
        "HTTPS://cdn.a-b.example.co.uk:8443/x",
        "https://xn--bcher-kva.example.com/x",
        "https://1.2.3.4.example.com/x",
    ],
)
def test_public_https_urls_are_passed_on_only_where_they_are_allowed(url: str) -> None:
    assert checked_url(url, part=PART, accepts_remote=True) == url
    with pytest.raises(InvalidRequest) as refusal:
        checked_url(url, part=PART, accepts_remote=False)
    assert (refusal.value.param, refusal.value.code) == (PART, "unsupported_content")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cat.png",
        "//example.com/x",
        "http://example.com/x",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://localhost/x",
        "https://LOCALHOST./x",
        "https://printer/x",
        "https://db.internal/x",
        "https://nas.local/x",
        "https://a.localhost/x",
        "https://router.lan/x",
        "https://x.home.arpa/x",
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f.0.0.1/x",
        "https://0177.0.0.1/x",
        "https://10.0.0.0x1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[::1/x",
        "https://user:secret@example.com/x",
        "https://user@example.com/x",
        "https://@example.com/x",
        "https://example.com:99999/x",
        "https://example.com:port/x",
        "https://example.com\\@localhost/x",
        "https://example.com/a b",
        "https://exam\tple.com/x",
        "https://exa\nmple.com/x",
        "https://exämple.com/x",
        "https://１２７.0.0.1/x",
        "https://-a.example.com/x",
        "https://a..example.com/x",
        "https://" + "a." * 127 + "com/x",
        "https://example.com/" + "x" * 8192,
    ],
)
def test_urls_that_only_somebody_inside_can_reach_or_nobody_can_read_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        checked_url(url, part=PART, accepts_remote=True)
    assert (refusal.value.param, refusal.value.code) == (PART, "unsupported_content")
