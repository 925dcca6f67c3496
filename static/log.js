// Logs that grow, and a word when the server is away. The pages work without this file.
"use strict";
(() => {
  // Following is done by the style sheet: the log is laid out from its end, where scrollTop is 0 at the end and
  // negative above it. Whoever scrolls up stops following and stays where they are.
  const boxOf = (view) => view.closest(".log")?.querySelector(".log-follow");

  document.addEventListener("scroll", (event) => {
    const view = event.target;
    if (!(view instanceof Element) || !view.matches(".log-view")) return;
    const box = boxOf(view);
    if (!box?.checked || view.scrollTop > -24) return;
    const top = view.scrollHeight - view.clientHeight + view.scrollTop;
    box.checked = false;
    view.scrollTop = top;
  }, true);

  document.addEventListener("change", (event) => {
    if (!event.target.matches(".log-follow")) return;
    const view = event.target.closest(".log").querySelector(".log-view");
    view.scrollTop = event.target.checked ? 0 : view.scrollHeight;
  });

  // A poll that fails is tried again by its timer. What is on the page stays; one line says why nothing moves.
  // The asking element is gone by the time that its answer has replaced it, so htmx's own note of it is read.
  const polls = (event) => event.detail.requestConfig?.elt.matches('#poll, [id$="-tail"]');
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
    if (polls(event) ? xhr.status >= 500 || said : foreign(xhr)) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { xhr } = event.detail;
    if (polls(event)) show("away", !xhr.status || xhr.status >= 500);
    else if (xhr.status) show("unsure", foreign(xhr));
  });
  // A button whose answer never came: what it did shows with the next poll that is answered.
  document.addEventListener("htmx:sendError", (event) => {
    if (!polls(event)) show("unsure", true);
  });
  // The poll was stopped for a button that was pressed, not by the server.
  document.addEventListener("htmx:xhr:abort", () => show("away", false));
})();
