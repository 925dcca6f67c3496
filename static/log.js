// The poll of a run's page, logs that grow, and a word when the server is away. The pages work without this file.
"use strict";
(() => {
  const poll = () => document.getElementById("poll");
  const isPoll = (event) => event.detail.requestConfig?.elt?.id === "poll";
  const reads = (event) => event.detail.requestConfig?.verb === "get";

  // One poll brings everything. It is asked for by a timer: each time so long after the last answer, seldom on a page
  // that nobody sees, at once when it is seen again. Whoever pressed a button waits for what it does, so for a while
  // their page asks more often.
  const HIDDEN = 15;
  const SOON = 0.15;
  const SOON_FOR = 5;
  let soonUntil = 0;
  let timer = 0;
  let asked = 0;
  function ask() {
    clearTimeout(timer);
    const place = poll();
    if (!place?.dataset.every) return;
    asked = Date.now();
    htmx.trigger(place, "poll");
    wait();
  }
  function wait() {
    clearTimeout(timer);
    const every = Number.parseFloat(poll()?.dataset.every);
    if (!every) return;
    const usual = Date.now() < soonUntil ? Math.min(SOON, every) : every;
    const seconds = document.hidden ? Math.max(HIDDEN, every) : usual;
    timer = setTimeout(ask, Math.max(asked + seconds * 1000 - Date.now(), 50));
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? wait() : ask()));
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!reads(event)) soonUntil = Date.now() + SOON_FOR * 1000;
    wait();
  });
  window.addEventListener("pageshow", (event) => event.persisted && ask());

  // Following is done by the style sheet: the log is laid out from its end, where scrollTop is 0 at the end and
  // negative above it. Whoever scrolls up stops following and stays where they are.
  const boxOf = (view) => view.closest(".log")?.querySelector(".log-follow");
  function unfollow(view) {
    const box = boxOf(view);
    if (!box?.checked) return;
    const top = view.scrollHeight - view.clientHeight + view.scrollTop;
    box.checked = false;
    view.scrollTop = top;
  }
  // Only once it has come to rest: setting scrollTop ends a movement, and a key would move a line or two of its page.
  const resting = new WeakMap();
  const rest = (view) => boxOf(view)?.checked && view.scrollTop <= -24 && unfollow(view);
  const tells = "onscrollend" in window;
  document.addEventListener(tells ? "scrollend" : "scroll", (event) => {
    const view = event.target;
    if (!(view instanceof Element) || !view.matches(".log-view")) return;
    if (tells) return void rest(view);
    clearTimeout(resting.get(view));
    resting.set(view, setTimeout(rest, 150, view));
  }, true);
  document.addEventListener("change", (event) => {
    if (!event.target.matches(".log-follow")) return;
    const view = event.target.closest(".log").querySelector(".log-view");
    view.scrollTop = event.target.checked ? 0 : view.scrollHeight;
  });
  // A long log that is not followed opens at its end, too.
  const toEnd = (log) => {
    const view = log.querySelector(".log-view");
    if (view?.querySelector(".log-gap") && !boxOf(view)?.checked && !log.querySelector("li:target")) view.scrollTop = view.scrollHeight;
  };
  document.addEventListener("toggle", (event) => {
    const log = event.target;
    if (!log.matches?.(".log") || !log.open || log.dataset.seen) return;
    log.dataset.seen = "";
    toEnd(log);
  }, true);

  // A page that is followed for hours keeps its last lines only; a gap brings the others back.
  const MOST = 10000;
  const KEEP = 4000;
  function shorten(text) {
    const lines = () => text.querySelectorAll("li").length;
    const view = text.closest(".log-view");
    if (!boxOf(view)?.checked || lines() <= MOST) return;
    while (lines() > KEEP && text.firstElementChild !== text.lastElementChild) text.firstElementChild.remove();
    const first = Number(text.querySelector("li").id.split("-")[1]);
    if (first < 2) return;
    const gap = document.createElement("p");
    text.prepend(gap);
    htmx.ajax("GET", `${text.dataset.fill}?first=1&last=${first - 1}&count=0`, { target: gap, swap: "outerHTML" });
  }
  document.addEventListener("htmx:oobAfterSwap", (event) => {
    if (event.detail.target?.matches?.(".log-text")) shorten(event.detail.target);
  });

  // Lines that fill a gap push down what is read, so it is pulled back to where it stood.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const gap = event.detail.target;
    if (!gap?.matches?.(".log-gap") || !event.detail.requestConfig?.elt?.id.includes("-earlier-")) return;
    const view = gap.closest(".log-view");
    unfollow(view);
    const mark = gap.nextElementSibling;
    const before = mark?.getBoundingClientRect().top;
    const had = document.activeElement?.closest(".log-gap") === gap;
    requestAnimationFrame(() => {
      if (mark) view.scrollTop += mark.getBoundingClientRect().top - before;
      if (had && !document.activeElement?.closest(".log-gap")) view.focus({ preventScroll: true });
    });
  });

  // What somebody is about to press stays under their pointer when the plan above it grows by its attributes.
  let gateTop = null;
  document.addEventListener("htmx:oobBeforeSwap", () => {
    const gate = document.getElementById("gate");
    gateTop = gate?.matches(":hover, :focus-within") ? gate.getBoundingClientRect().top : null;
  });
  document.addEventListener("htmx:oobAfterSwap", () => {
    if (gateTop === null) return;
    const moved = document.getElementById("gate").getBoundingClientRect().top - gateTop;
    if (!moved) return;
    document.body.style.minHeight = `${window.scrollY + moved + window.innerHeight}px`; // or there is nowhere to scroll to
    window.scrollBy({ top: moved, behavior: "instant" });
  });

  // The address of a line works for whoever it is sent to, wherever the log ends by then.
  const LINE = /^#((?:plan|apply)-[1-9]\d*)$/;
  function settle() {
    const name = LINE.exec(location.hash)?.[1];
    if (!name) return;
    const url = new URL(location.href);
    if (!document.getElementById(name)) {
      if (url.searchParams.get("line") === name) return;
      url.searchParams.set("line", name);
      location.replace(url);
      return;
    }
    url.searchParams.set("line", name);
    history.replaceState(history.state, "", url);
  }
  window.addEventListener("hashchange", settle);

  // A poll that fails is tried again by its timer. What is on the page stays; one line says why nothing moves.
  const show = (id, yes) => {
    const notice = document.getElementById(id);
    if (!notice) return;
    notice.hidden = !yes;
    if (yes && id === "unsure") notice.scrollIntoView({ block: "nearest" });
  };
  // Lockstep's own errors name their place on the page; a proxy's do not.
  const foreign = (xhr) => xhr.status >= 500 && !xhr.getResponseHeader("HX-Retarget");

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    // A poll that is refused says so once, not every 2 s.
    const said = xhr.status >= 400 && document.querySelector("#notices .notice");
    if (isPoll(event) ? xhr.status >= 500 || said : foreign(xhr)) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { xhr } = event.detail;
    if (isPoll(event)) show("away", !xhr.status || xhr.status >= 500);
    else if (reads(event)) show("away", !xhr.status || foreign(xhr));
    else if (xhr.status) show("unsure", foreign(xhr));
  });
  // A button whose answer never came: what it did shows with the next poll that is answered.
  document.addEventListener("htmx:sendError", (event) => {
    if (!isPoll(event) && !reads(event)) show("unsure", true);
  });
  // The poll was stopped for a button that was pressed, not by the server.
  document.addEventListener("htmx:xhr:abort", () => show("away", false));

  document.querySelectorAll(".log[open]").forEach((log) => {
    log.dataset.seen = "";
    toEnd(log);
  });
  settle();
  asked = Date.now();
  wait();
})();
