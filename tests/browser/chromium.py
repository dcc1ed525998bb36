"""A real Chromium for tests: the system's, quiet, with its complaints kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from playwright.sync_api import ConsoleMessage, Frame, Page, sync_playwright

from tests.requirements import need

T = TypeVar("T")

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(slots=True)
class Visit:
    """A page of the gateway at `url`, and what went wrong on the way: violated policies, dialogs, errors of scripts or
    in the console, requests to anybody else."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        page = self.page
        page.on("dialog", lambda dialog: self.complain(f"dialog: {dialog.message}"))
        page.on("pageerror", lambda error: self.complain(f"script: {error}"))
        page.on("console", lambda said: self.complain(_told(said)) if said.type == "error" else None)
        page.on("request", lambda sent: self.complain(f"request: {sent.url}") if not self._is_ours(sent.url) else None)

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def _is_ours(self, url: str) -> bool:
        return url.startswith((self.url, "data:", "blob:"))

    def sign_in(self, name: str = "root", password: str = "a long password") -> None:
        """As root unless said otherwise, from the sign-in page itself."""
        self.page.goto(f"{self.url}/admin/login/")
        self.page.fill("input[name=username]", name)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(f"{self.url}/admin/")

    def open(self, path: str) -> int:
        """Go to a page of the admin, wait until it is at rest, and return its status."""
        response = self.page.goto(f"{self.url}/admin/{path}")
        self.page.wait_for_load_state("networkidle")
        return response.status if response is not None else 0

    def is_wider_than_window_by(self) -> int:
        """How many pixels one would have to scroll sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def frame(self, part_of_url: str) -> Frame:
        """The frame of that URL, once it has loaded. Lazy ones begin some time after they can be seen."""
        for _ in range(400):
            found = next((frame for frame in self.page.frames if part_of_url in frame.url), None)
            if found is not None:
                found.wait_for_load_state()
                return found
            self.page.wait_for_timeout(50)
        raise TimeoutError(f"There is no frame of {part_of_url}; there are {[f.url for f in self.page.frames]}.")


def _told(said: ConsoleMessage) -> str:
    return f"console: {said.text} ({said.location.get('url', '')})"


def browse(
    url: str, steps: Callable[[Visit], T], *, width: int = 1400, scheme: Literal["light", "dark"] = "light"
) -> tuple[T, list[str]]:
    """Do `steps` in a new browser; return what they return, and the complaints."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    need(chromium is not None, "chromium", "install Debian's chromium")

    def run() -> tuple[T, list[str]]:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(20_000)
            visit = Visit(page, url)
            visit.listen()
            try:
                return steps(visit), visit.complaints
            finally:
                browser.close()

    # Playwright's loop would make Django take this thread for an asynchronous one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
