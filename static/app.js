// Times in the reader's zone. Everything works without this file; then times are in UTC.
"use strict";
(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const day = { day: "numeric", month: "short", year: "numeric" };
  const minute = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  const second = { ...minute, second: "2-digit" };
  const format = (options) => new Intl.DateTimeFormat("en-GB", options);
  const exact = format({ ...day, ...second, timeZoneName: "short" });
  const date = format(day);
  const texts = { local: format({ ...day, ...minute }), clock: format(second) };

  function localize(root) {
    for (const time of root.querySelectorAll("time[data-time]:not([data-done])")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.title = exact.format(at);
      const text = texts[time.dataset.time];
      if (text) time.textContent = text.format(at);
      time.dataset.done = "";
    }
  }

  // "9 min ago" grows older on a page that stays open; the words are those of the server, which after a day says the day.
  function age() {
    for (const time of document.querySelectorAll('time[data-time="ago"]')) {
      const at = new Date(time.dateTime);
      const seconds = Math.max(0, Math.floor((Date.now() - at.getTime()) / 1000));
      if (seconds < 60) time.textContent = `${seconds} s ago`;
      else if (seconds < 3600) time.textContent = `${Math.floor(seconds / 60)} min ago`;
      else if (seconds < 86400) time.textContent = `${Math.floor(seconds / 3600)} h ago`;
      else if (time.textContent.endsWith("ago")) time.textContent = date.format(at);
    }
  }

  // "Running for 24 s" counts on; the words are those of blueprints/run_steps.py.
  function count() {
    for (const time of document.querySelectorAll('time[data-time="for"]')) {
      const seconds = Math.max(0, Math.floor((Date.now() - new Date(time.dateTime).getTime()) / 1000));
      let text = `${Math.floor(seconds / 86400)} days`;
      if (seconds < 60) text = `${seconds} s`;
      else if (seconds < 3600) text = `${Math.floor(seconds / 60)} min`;
      else if (seconds < 2 * 86400) text = `${Math.floor(seconds / 3600)} h`;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  localize(document);
  for (const place of document.querySelectorAll("[data-zone]")) {
    place.textContent = `Times are in ${zone.replaceAll("_", " ")}`;
  }
  // Swaps out of band reach parents of what htmx names in its event, so the whole page is looked at.
  for (const name of ["htmx:afterSwap", "htmx:oobAfterSwap", "htmx:load"]) {
    document.addEventListener(name, () => localize(document));
  }
  setInterval(age, 30000);
  setInterval(count, 1000);
})();
