import pytest
from django.core.exceptions import ValidationError

from profiles.http_urls import origin_of, validate_http_url


@pytest.mark.parametrize(
    "url",
    [
        "https://llm.example.com/v1",
        "http://litellm:4000",
        "http://127.0.0.1:8000/v1/",
        "http://[::1]:8000",
        "http://host.docker.internal:4000",
        "HTTPS://EXAMPLE.COM",
    ],
)
def test_urls_of_hosts_are_accepted(url):
    validate_http_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "example.com/v1",
        "ftp://example.com",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///v1",
        "http://user:secret@example.com",
        "http://example.com/v1?key=1",
        "http://example.com/v1#top",
        "http://example.com:99999",
        "http://example.com:port",
        "http://[::1",
        "http://exa mple.com",
        "http://example.com/\n",
        "http://example.com/\x00",
    ],
)
def test_anything_else_is_refused(url):
    with pytest.raises(ValidationError):
        validate_http_url(url)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("https://example.com", "https://EXAMPLE.com:443/v1"),
        ("http://example.com", "http://example.com.:80/"),
        ("http://[::1]:8000/a", "http://[::1]:8000/b"),
        ("", "  "),
    ],
)
def test_one_place_can_be_spelled_in_several_ways(first, second):
    assert origin_of(first) == origin_of(second)


@pytest.mark.parametrize(
    "other", ["http://example.com", "https://example.org", "https://example.com:8443", "https://a.example.com", ""]
)
def test_another_scheme_host_or_port_is_another_place(other):
    assert origin_of("https://example.com/v1") != origin_of(other)
