// Brings the parts of a page up to date that are marked with `data-live`.
"use strict";
(() => {
  const stream = document.currentScript.dataset.stream;
  let source = null;
  let loading = false;

  // A part that is being used stays as it is: an open form, or a field with the focus.
  const isInUse = (part) =>
    part.querySelector("details[open]") !== null ||
    (part.contains(document.activeElement) && document.activeElement.matches("input, button, summary"));

  const replace = (old, fresh) => {
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const href = focused && focused.getAttribute("href");
    const scrolled = [...old.querySelectorAll("pre")].map((pre) => [pre.scrollTop, pre.scrollLeft]);
    old.replaceWith(fresh);
    fresh.querySelectorAll("pre").forEach((pre, index) => {
      if (scrolled[index]) [pre.scrollTop, pre.scrollLeft] = scrolled[index];
    });
    if (href) {
      const again = [...fresh.querySelectorAll("a")].find((link) => link.getAttribute("href") === href);
      if (again) again.focus({ preventScroll: true });
    }
  };

  const update = async () => {
    if (loading) return;
    loading = true;
    try {
      const headers = { accept: "text/html" };
      // The forms keep their token.
      const token = document.querySelector("input[name=token]");
      if (token) headers["x-form-token"] = token.value;
      const answer = await fetch(location.href, { headers });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const parts = [...document.querySelectorAll("[data-live]")];
      const known = new Set(parts.map((part) => part.id));
      const all = [...page.querySelectorAll("[data-live]")];
      // A part that appears or disappears changes the page as a whole.
      if (all.length !== parts.length || all.some((part) => !known.has(part.id))) {
        const main = document.getElementById("main");
        if (!isInUse(main)) replace(main, document.adoptNode(page.getElementById("main")));
        return;
      }
      for (const part of parts) {
        const fresh = page.getElementById(part.id);
        if (fresh.outerHTML !== part.outerHTML && !isInUse(part)) replace(part, document.adoptNode(fresh));
      }
    } catch {
      // The stream tells when the server is back.
    } finally {
      loading = false;
    }
  };

  const start = () => {
    if (source || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource(stream);
    source.addEventListener("message", update);
  };

  const stop = () => {
    if (source) source.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", start);
  start();
})();
