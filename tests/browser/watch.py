"""What a page must not do unnoticed: console messages, errors, reports of the CSP, lost requests."""

from __future__ import annotations

import re

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, WebError

#: Reports reach the console by themselves where something was blocked; those of report-only policies do not.
CSP_LISTENER = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""
#: Dropped without harm: polls when a page is left or a button was pressed, the tab's icon when a page is left, and
#: downloads, which stop being pages.
_DROPPED = re.compile(r"/runs/\d+/(?:status|(?:plan|apply)/log(?:\.txt)?)(?:\?|$)|/static/mark\.svg")
#: htmx says so on the console, too.
_DROPPED_SAYS_HTMX = re.compile(r"htmx:(?:afterRequest|sendAbort), ")


class Watch:
    """Collects from every context of a test; the test fails at its end for whatever it did not expect."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self._allowed: list[re.Pattern[str]] = []

    def attach(self, context: BrowserContext) -> None:
        """Listen to all pages of a context."""
        context.add_init_script(CSP_LISTENER)
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("requestfailed", self._failed)

    def expect(self, pattern: str) -> None:
        """Say which message a test provokes on purpose; at least one must come."""
        self._expected.append(re.compile(pattern))

    def allow(self, pattern: str) -> None:
        """Say which message may come beside one that a test provokes."""
        self._allowed.append(re.compile(pattern))

    def check(self) -> None:
        """Assert that nothing came but what was expected, and that this did."""
        known = [*self._expected, *self._allowed]
        surprises = [line for line in self._seen if not any(pattern.search(line) for pattern in known)]
        assert not surprises, "\n".join(surprises)
        missing = [p.pattern for p in self._expected if not any(p.search(line) for line in self._seen)]
        assert not missing, f"These were expected and did not come: {missing}"

    def _console(self, message: ConsoleMessage) -> None:
        if _DROPPED_SAYS_HTMX.match(message.text):
            return
        self._seen.append(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _error(self, error: WebError) -> None:
        self._seen.append(f"page error: {error.error}")

    def _failed(self, request: Request) -> None:
        if request.failure == "net::ERR_ABORTED" and _DROPPED.search(request.url):
            return
        self._seen.append(f"failed request: {request.method} {request.url} {request.failure}")
